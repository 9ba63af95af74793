#!/usr/bin/env python3
"""The client's side of kill-rounds.sh.

    kill-rounds.py load PORT ROUND ACKNOWLEDGED     submits over 16 connections until the relay is gone; each id that
                                                    got its 250 becomes a line of ACKNOWLEDGED
    kill-rounds.py check ACKNOWLEDGED INDEX SECONDS [LOG...]
                                                    waits until the sink has all of them, or none more came for
                                                    SECONDS, and counts; where there are LOGs,
                                                    `deliver_at_most_once` is on: one that ended there with its
                                                    outcome unknown need not arrive, and none may arrive twice

The id is the local part of the recipient. The sink notes a hash of each body, so that a message which survived with
other content counts as lost.
"""

import collections
import hashlib
import json
import pathlib
import sys
import threading
import time

import smtp_client

CONNECTIONS = 16


def body_of(name):
    return f"{name} is your code.\r\n.{name}\r\n".encode() * (1 + hash_of(name.encode())[0] % 50)


def hash_of(octets):
    return hashlib.sha256(octets).digest()


def submit(port, name_of, acknowledged):
    number = 0
    try:
        with smtp_client.Client(port) as client:
            client.greet()
            while True:
                number += 1
                name = name_of(number)
                client.envelope("otp@app.test", [f"{name}@example.test"])
                client.data(f"From: otp@app.test\r\nSubject: {name}\r\n\r\n".encode() + body_of(name))
                acknowledged(name)
    except (ConnectionError, smtp_client.Refused) as error:
        if isinstance(error, smtp_client.Refused) and error.code is not None:
            raise


def load(port, round_number, path):
    faults = []
    lock = threading.Lock()
    threading.excepthook = lambda fault: faults.append(fault.exc_value)
    with open(path, "a", encoding="ascii") as file:

        def acknowledged(name):
            with lock:
                file.write(name + "\n")
                file.flush()

        def name_of(connection):
            return lambda number: f"{round_number}-{connection}-{number}"

        threads = [threading.Thread(target=submit, args=(port, name_of(n), acknowledged)) for n in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if faults:
        sys.exit(f"FAILED: expected 250 to everything; seen: {faults[0]}")


def arrivals(index):
    """How often each id arrived whole, and which arrived with a body that is not theirs."""
    counts, torn = collections.Counter(), []
    for line in index.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        name = entry["to"][0].split("@")[0]
        if entry["body"] == hash_of(body_of(name)).hex():
            counts[name] += 1
        else:
            torn.append(name)
    return counts, torn


def outcome_unknown(logs):
    """The ids that ended so."""
    lines = (line for log in logs for line in log.read_text(encoding="utf-8").splitlines())
    return {json.loads(line)["recipient"].split("@")[0] for line in lines if '"outcome_unknown"' in line}


def check(acknowledged, index, seconds, logs):
    wanted = acknowledged.read_text(encoding="ascii").split()
    end, left = time.monotonic() + seconds, len(wanted)
    while True:
        counts, torn = arrivals(index)
        unknown = outcome_unknown(logs)
        lost = [name for name in wanted if name not in counts and name not in unknown]
        if len(lost) < left:
            end, left = time.monotonic() + seconds, len(lost)
        if not lost or time.monotonic() > end:
            break
        time.sleep(0.5)
    duplicates = sum(counts.values()) - len(counts)
    beyond = len(counts.keys() - set(wanted))
    print(f"acknowledged {len(wanted)}, lost {len(lost)}, damaged {len(torn)}, arrived twice {duplicates}, "
          f"arrived without having been acknowledged {beyond}, ended with their outcome unknown {len(unknown)}, "
          f"of which arrived {sum(1 for name in unknown if name in counts)}")
    if logs and duplicates:
        sys.exit(f"FAILED: expected nothing twice; seen: {duplicates}")
    if lost or torn:
        sys.exit(f"FAILED: expected nothing lost or damaged; seen: lost {lost[:5]}, damaged {torn[:5]}")


if sys.argv[1] == "load":
    load(int(sys.argv[2]), sys.argv[3], sys.argv[4])
else:
    check(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), float(sys.argv[4]), [pathlib.Path(log) for log in sys.argv[5:]])
