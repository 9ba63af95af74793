#!/usr/bin/env python3
"""A reader of `GET /v1/events` that keeps its cursor.

    events_reader.py follow PORT TOKEN FILE    reads for ever, again and again from where it was, also while nobody listens.
                                               Each event becomes a line of FILE: when it came, the cursor it was asked for
                                               behind, its id, its data. The cursor is kept with every tenth event only, so
                                               that some come again
    events_reader.py check FILE ACKNOWLEDGED SECONDS
                                               waits until the end of every acknowledged recipient was read; nothing may be
                                               missing, come twice but behind the cursor, or out of order for an entry
"""

import collections
import http.client
import json
import pathlib
import sys
import time

ENDS = {"delivered", "failed", "expired", "superseded", "cancelled"}
# Told before they are on disk, and not kept over a crash.
INFORMATIVE = {"queued", "attempted"}
KEPT_EVERY = 10


def stream(port, token, behind, timeout):
    """Events behind a cursor as (id, data); id is none for one that says that others are gone."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        headers = {"Authorization": f"Bearer {token}", "Last-Event-ID": str(behind)}
        connection.request("GET", "/v1/events", headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise ConnectionError(f"status {answer.status}")
        fields = {}
        for line in answer:
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(": ")
                fields[name] = value
                continue
            if fields.get("event") == "missed":
                yield None, {"event": "missed"}
            elif "id" in fields:
                yield int(fields["id"]), json.loads(fields["data"])
            fields = {}
    finally:
        connection.close()


def follow(port, token, path):
    kept = at = 0
    with open(path, "a", encoding="utf-8") as file:
        while True:
            behind = kept
            try:
                for number, data in stream(port, token, behind, 60):
                    if number is None and behind == 0:
                        # From the very first on: nothing is gone that was not read.
                        continue
                    line = {"came": time.time(), "behind": behind, "number": number, "data": data}
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    at += 1
                    kept = number if number and at % KEPT_EVERY == 0 else kept
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.02)


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def name_of(event):
    return event.get("recipient", "").split("@")[0]


def faults_of(lines):
    """What no reader may ever see, in words; and all events by their ids."""
    faults, known, before = [], {}, None
    for line in lines:
        behind, number, data = line["behind"], line["number"], line["data"]
        if number is None:
            faults.append(f"events were missed behind {behind}")
            continue
        if number <= behind:
            faults.append(f"{number} came behind {behind}")
        if before and before[0] == behind and number <= before[1]:
            faults.append(f"{number} came after {before[1]}")
        before = (behind, number)
        if known.setdefault(number, data) != data:
            faults.append(f"{number} came again as something else")
    return faults, known


def disorder(known):
    """Entries that something happened to before they were accepted or after they ended, and those that ended twice."""
    of = collections.defaultdict(list)
    for number in sorted(known):
        of[name_of(known[number])].append(known[number]["event"])
    wrong = []
    for name, kinds in of.items():
        kinds = [kind for kind in kinds if kind not in INFORMATIVE]
        ends = [kind for kind in kinds if kind in ENDS]
        if kinds and (kinds[0] != "accepted" or len(ends) > 1 or any(kind in ENDS for kind in kinds[:-1])):
            wrong.append((name, kinds))
    return wrong


def check(path, acknowledged, seconds):
    wanted = acknowledged.read_text(encoding="ascii").split()
    end, left = time.monotonic() + seconds, len(wanted)
    while True:
        lines = lines_of(path)
        faults, known = faults_of(lines)
        ended = {name_of(data) for data in known.values() if data["event"] in ENDS}
        lost = [name for name in wanted if name not in ended]
        if len(lost) < left:
            end, left = time.monotonic() + seconds, len(lost)
        if not lost or faults or time.monotonic() > end:
            break
        time.sleep(1)
    wrong = disorder(known)
    print(f"acknowledged {len(wanted)}, events read {len(known)}, ends missing {len(lost)}, out of order {len(wrong)}, "
          f"came again behind the cursor {len(lines) - len(known)}, otherwise {len(faults)}")
    if lost or wrong or faults:
        sys.exit(f"FAILED: expected every end once and in order; seen: {lost[:3]}, {wrong[:3]}, {faults[:3]}")


if __name__ == "__main__":
    if sys.argv[1] == "follow":
        follow(int(sys.argv[2]), pathlib.Path(sys.argv[3]).read_text(encoding="ascii").strip(), sys.argv[4])
    else:
        check(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), float(sys.argv[4]))
