#!/usr/bin/env python3
"""The tool of power-cuts.sh.

    power-cuts.py load PORT COUNT ACKNOWLEDGED       submits COUNT messages over 8 connections; each that got its 250
                                                     becomes a line of ACKNOWLEDGED: time, id, local part
    power-cuts.py replay FOLDER DATA CUTS SEED RELAY MODE
        FOLDER holds what was recorded of a relay whose data directory was DATA: `trace` by strace, `acknowledged`,
        `relay.log`, `sink/index`, and `events` by events_reader.py; and `cut.toml`, a configuration for the relay whose data directory is FOLDER/cut. For
        each of CUTS moments the disk is made up as a power cut at that moment could have left it, the relay is started
        on it, and everything acknowledged before and not delivered before has to be in its queue. What had arrived and
        is in the queue again is counted; with the MODE `at-most-once` there must be no such thing, and a message whose
        content was about to leave may have ended as `outcome_unknown` instead. Whatever the reader of the events had read
        before the cut is read again from the beginning, as the same; behind its cursor nothing is missing: what is in the
        queue has not ended, and what was acknowledged and is not there has, once.

The disk that is made up keeps what was synced and forgets as it likes of the rest: of each file, any subset of the writes
that no later fdatasync or fsync of that file covers, each whole or torn at a multiple of 512 octets; of each folder, the
last so many creations, renames and removals that no fsync of the folder covers. A sync counts from its return on.
"""

import bisect
import collections
import datetime
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import events_reader
import smtp_client

CONNECTIONS = 8
SECTOR = 512
# Between a remote 250 and the event that tells of it.
SLACK_S = 0.25
# How long nothing comes before a reader has read all. Less than the 15 s after which the stream says that it lives, with
# which a reader of nothing would wait for ever.
QUIET_S = 10
# Between the start of a relay and the last word on what had ended before.
ENDING_S = 0.3


def load(port, count, path):
    lock = threading.Lock()
    faults = []
    threading.excepthook = lambda fault: faults.append(fault.exc_value)
    with open(path, "a", encoding="ascii") as file:

        def submit(connection):
            with smtp_client.Client(port) as client:
                client.greet()
                for number in range(count // CONNECTIONS):
                    # Most wait in the queue for ever, some are delivered at once.
                    domain = "example.test" if number % 4 == 0 else "silent.test"
                    name = f"{connection}-{number}"
                    # Longer than all that follows takes.
                    life = (86400, 14400, 7200)[number % 3]
                    client.envelope("otp@app.test", [f"{name}@{domain}"])
                    head = f"From: otp@app.test\r\nSubject: {name}\r\nX-OTP-Life: {life}\r\n\r\n"
                    text = client.data(head.encode() + b"0123456789abcdef\r\n" * (number % 7 * 60 + 1))
                    with lock:
                        file.write(f"{time.time():.6f} {re.search('id=([0-9A-Z]+)', text).group(1)} {name}\n")

        threads = [threading.Thread(target=submit, args=(n,)) for n in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if faults:
        sys.exit(f"FAILED: expected 250 to everything; seen: {faults[0]}")


Call = collections.namedtuple("Call", "began ended name path octets offset flags other")

ENTRY = re.compile(r"^(\d+) +(\d+\.\d+) (.*)$")
QUOTED = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
DURATION = re.compile(r"^(.*) <(\d+\.\d+)>$")
FD_PATH = re.compile(r"^\d+<(.*?)>")


def unhex(text):
    return bytes.fromhex(text.replace("\\x", ""))


def calls(trace):
    """The system calls that came to an end, in the order in which they began."""
    open_calls, found = {}, []
    with open(trace, encoding="ascii", errors="replace") as file:
        for line in file:
            match = ENTRY.match(line.rstrip("\n"))
            if not match:
                continue
            task, when, text = match.group(1), float(match.group(2)), match.group(3)
            if text.endswith(" <unfinished ...>"):
                open_calls[task] = (when, text[: -len(" <unfinished ...>")])
                continue
            timed = DURATION.match(text)
            if not timed:
                continue
            began, ended, body = when, when + float(timed.group(2)), timed.group(1)
            resumed = re.match(r"<\.\.\. \w+ resumed>(.*)$", body)
            if resumed:
                if task not in open_calls:
                    continue
                began, start = open_calls.pop(task)
                ended, body = when, start + resumed.group(1)
            name, _, rest = body.partition("(")
            arguments, _, result = rest.rpartition(") = ")
            if not result.startswith("-"):
                found.append((began, ended, name, arguments, result))
    # Those that never came to an end may have come as far as the disk too, as far as their octets are known.
    found += [(began, float("inf"), body.partition("(")[0], body.partition("(")[2], "") for began, body in open_calls.values()]
    return sorted(call for call in found if call[0])


def text_of(path):
    """strace writes paths in hexadecimal too."""
    return unhex(path).decode() if path.startswith("\\x") else path


def parse(found, data):
    """Calls on files below `data`, their paths relative to it."""
    def inside(path):
        path = text_of(path)
        return path[len(data):].lstrip("/") or "." if path == data or path.startswith(data + "/") else None

    for began, ended, name, arguments, _ in found:
        call = Call(began, ended, name, None, b"", 0, "", None)
        quoted = QUOTED.findall(arguments)
        if name in ("pwrite64", "write", "fsync", "fdatasync", "ftruncate"):
            match = FD_PATH.match(arguments)
            path = match and inside(match.group(1))
            if path is None:
                continue
            if name == "pwrite64":
                call = call._replace(octets=unhex(quoted[0]), offset=int(arguments.rsplit(", ", 1)[1]))
            elif name == "write":
                call = call._replace(octets=unhex(quoted[0]), offset=None)
            elif name == "ftruncate":
                call = call._replace(offset=int(arguments.rsplit(", ", 1)[1]))
            yield call._replace(path=path)
            continue
        paths = [inside(q) for q in quoted]
        if not paths or paths[0] is None:
            continue
        if name in ("rename", "renameat", "renameat2"):
            yield call._replace(name="rename", path=paths[0], other=paths[1])
        elif name in ("unlink", "unlinkat"):
            yield call._replace(name="unlink", path=paths[0])
        elif name in ("mkdir", "mkdirat"):
            yield call._replace(name="mkdir", path=paths[0])
        elif name == "openat" and ("O_CREAT" in arguments or "O_TRUNC" in arguments):
            yield call._replace(path=paths[0], flags=arguments)


class File:
    """A file's octets as they are on the disk for sure, and the writes that may be."""

    def __init__(self):
        self.sure, self.pending, self.end = bytearray(), [], 0

    def write(self, offset, octets, ended):
        offset = self.end if offset is None else offset
        self.end = max(self.end, offset + len(octets))
        self.pending.append((offset, octets, ended))

    def truncate(self, length, ended):
        self.end = length
        self.pending.append((length, None, ended))

    def synced(self, began):
        """What had been written when a sync began is sure once it returned."""
        done = [write for write in self.pending if write[2] <= began]
        self.pending = [write for write in self.pending if write[2] > began]
        for offset, octets, _ in done:
            apply(self.sure, offset, octets)

    def after_cut(self, choice):
        """None, all, or any of the writes; the octets of some only in part."""
        image = bytearray(self.sure)
        share = choice.choice((0.0, 1.0, choice.random()))
        for offset, octets, _ in self.pending:
            if choice.random() >= share:
                continue
            if octets is not None and len(octets) > SECTOR and choice.random() < 0.2:
                first = choice.randrange(0, len(octets), SECTOR)
                last = choice.randrange(first, len(octets) + SECTOR, SECTOR)
                offset, octets = offset + first, octets[first:last]
            apply(image, offset, octets)
        return image


def apply(image, offset, octets):
    if octets is None:
        del image[offset:]
        image.extend(bytes(offset - len(image)))
        return
    image.extend(bytes(max(0, offset + len(octets) - len(image))))
    image[offset : offset + len(octets)] = octets


class Disk:
    def __init__(self):
        self.live = {".": None}
        self.sure = {".": None}
        # Changes of names by folder, in their order, that no sync of the folder covers.
        self.pending = collections.defaultdict(list)
        self.syncs = []

    def begin(self, call):
        """What a call may do to the disk from its beginning on."""
        file = self.live.get(call.path)
        if call.name == "openat":
            if file is None and "O_CREAT" in call.flags:
                file = File()
                self.name(call, call.path, file)
            if file is not None and "O_TRUNC" in call.flags and file.end:
                file.truncate(0, call.ended)
        elif call.name == "mkdir":
            self.name(call, call.path, "folder")
        elif call.name == "unlink" and call.path in self.live:
            self.name(call, call.path, None)
        elif call.name == "rename":
            self.name(call, call.other, file)
            self.name(call, call.path, None)
        elif isinstance(file, File):
            if call.name in ("write", "pwrite64"):
                file.write(call.offset, call.octets, call.ended)
            elif call.name == "ftruncate":
                file.truncate(call.offset, call.ended)

    def name(self, call, path, what):
        folder = str(pathlib.PurePath(path).parent)
        self.pending[folder].append((path, what, call.ended))
        if what is None:
            self.live.pop(path, None)
        else:
            self.live[path] = what

    def end(self, call):
        """What a sync has done when it returns."""
        if call.name not in ("fsync", "fdatasync"):
            return
        file = self.live.get(call.path)
        if isinstance(file, File):
            file.synced(call.began)
            return
        done = [change for change in self.pending[call.path] if change[2] <= call.began]
        self.pending[call.path] = [change for change in self.pending[call.path] if change[2] > call.began]
        for path, what, _ in done:
            rename(self.sure, path, what)

    def after_cut(self, choice):
        names = dict(self.sure)
        for changes in self.pending.values():
            for path, what, _ in changes[: choice.randint(0, len(changes))]:
                rename(names, path, what)
        return names


def rename(names, path, what):
    if what is None:
        names.pop(path, None)
    else:
        names[path] = what


def write_out(names, target, choice):
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o700)
    images = {}
    for path, what in sorted(names.items()):
        # What is in a folder that did not survive did not either.
        if what == "folder" and (target / path).parent.is_dir():
            (target / path).mkdir(exist_ok=True)
    for path, what in sorted(names.items()):
        if isinstance(what, File) and (target / path).parent.is_dir():
            if id(what) not in images:
                images[id(what)] = what.after_cut(choice)
            (target / path).write_bytes(images[id(what)])
    # After a power cut comes another run of the machine.
    state = target / "queue/state"
    if state.is_file() and state.read_bytes() != b"closed":
        state.write_bytes(b"another run of the machine")


def queue_of(folder, relay, patience_s):
    """The ids that the relay finds in its queue, those that ended as it started, what it complained about, and its events as
    (id, data), all that are there."""
    ready_at = None
    port = re.search(r'(?s)\[http\]\naddress = "127.0.0.1:(\d+)"', (folder / "cut.toml").read_text()).group(1)
    token = (folder / "token").read_text().strip()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/queue?limit=1000", headers={"Authorization": f"Bearer {token}"}
    )
    with open(folder / "cut.log", "w+", encoding="utf-8") as log:
        process = subprocess.Popen([relay, "serve", "-c", folder / "cut.toml"], stdout=log, stderr=log)
        try:
            until = time.monotonic() + 30
            while True:
                try:
                    with urllib.request.urlopen(request, timeout=10) as answer:
                        messages = json.load(answer)["messages"]
                    ready_at = ready_at or time.monotonic()
                    if time.monotonic() >= ready_at + patience_s:
                        break
                    time.sleep(patience_s)
                except (urllib.error.URLError, ConnectionError):
                    if process.poll() is not None or time.monotonic() > until:
                        log.seek(0)
                        return None, set(), log.read(), []
                    time.sleep(0.01)
            events = events_of(int(port), token, time.time())
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        lines = log.readlines()
    complaints = [line for line in lines if '"level":"error"' in line]
    unknown = {json.loads(line)["id"] for line in lines if '"outcome_unknown"' in line}
    return {message["id"] for message in messages}, unknown, "".join(complaints), events


def events_of(port, token, looked_at):
    """All events up to the first that came after a look at the queue, or until for a moment there are no more."""
    events = []
    try:
        for number, data in events_reader.stream(port, token, 0, QUIET_S):
            if number and timestamp_of(data) > looked_at:
                break
            events += [(number, data)] if number else []
    except TimeoutError:
        pass
    return events


def misread(events, before, found, known):
    """What is wrong with the events after a cut. `before` was read before it, `found` is in the queue, `known` acknowledged."""
    all_of = dict(events)
    faults = [f"{number} was read before the cut and is not there, or is another" for number, data in before
              if data["event"] not in events_reader.INFORMATIVE and all_of.get(number) != data]
    numbers = [number for number, _ in events]
    if numbers != sorted(set(numbers)):
        faults.append("numbers do not grow")
    faults += [f"{name}: {kinds}" for name, kinds in events_reader.disorder(all_of)]
    ended = {data["id"].split("-")[0] for data in all_of.values() if data["event"] in events_reader.ENDS}
    # What ended since the queue was looked at is no fault of those that were there.
    cursor = max((number for number, _ in before), default=0)
    ended_before = {data["id"].split("-")[0] for number, data in before if data["event"] in events_reader.ENDS}
    faults += [f"{name} had ended before the cut and is in the queue" for name in found & ended_before]
    faults += [f"{name} is neither in the queue nor among the ends behind {cursor}" for name in known - found - ended]
    return faults


def timestamp_of(event):
    return datetime.datetime.fromisoformat(event["time"].rstrip("Z") + "+00:00").timestamp()


def delivered_at(log):
    times = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        if '"delivered"' in line and line.startswith("{"):
            entry = json.loads(line)
            if entry.get("event") == "delivered":
                times[entry["id"].split("-")[0]] = timestamp_of(entry)
    return times


def arrived_at(index):
    """When the mail host had each, by local part."""
    entries = map(json.loads, index.read_text(encoding="utf-8").splitlines())
    return {entry["to"][0].split("@")[0]: entry["at"] for entry in entries}


def replay(folder, data, count, seed, relay, mode):
    choice = random.Random(seed)
    recorded = list(parse(calls(folder / "trace"), data))
    # (time, what comes first at that time, call); of a sync only its return counts, of all else the beginning.
    steps = []
    for call in recorded:
        is_sync = call.name in ("fsync", "fdatasync")
        steps.append((call.ended if is_sync else call.began, is_sync, call))
    steps.sort(key=lambda step: (step[0], step[1]))
    lines = [line.split() for line in open(folder / "acknowledged", encoding="ascii")]
    acknowledged = sorted((float(at), name) for at, name, _ in lines)
    arrivals = arrived_at(folder / "sink/index")
    arrived = {name: arrivals[local_part] for _, name, local_part in lines if local_part in arrivals}
    delivered = delivered_at(folder / "relay.log")
    times = [at for at, _ in acknowledged]
    syncs = sum(1 for step in steps if step[1])
    print(f"recorded: {len(recorded)} calls, {syncs} syncs, {len(acknowledged)} acknowledged, {len(delivered)} delivered;")
    moments = sorted(choice.sample(range(len(steps)), min(count, len(steps))))
    read = [(line["came"], line["number"], line["data"]) for line in events_reader.lines_of(folder / "events")]
    disk, at, checked, lost, failed, again, wrong = Disk(), 0, 0, [], [], [], []
    beyond = unknown = read_before = read_after = 0
    for moment in moments:
        while at <= moment:
            when, is_sync, call = steps[at]
            (disk.end if is_sync else disk.begin)(call)
            at += 1
        cut = steps[moment][0]
        write_out(disk.after_cut(choice), folder / "cut", choice)
        found, ended, said, events = queue_of(folder, relay, ENDING_S if mode == "at-most-once" else 0)
        known = [name for _, name in acknowledged[: bisect.bisect_left(times, cut)]]
        before = {number: data for came, number, data in read if came < cut and number}
        faults = []
        if found is not None:
            read_before += len(before)
            read_after += sum(1 for number, _ in events if number > max(before, default=0))
            faults = misread(events, before.items(), found, set(known))
            wrong += [(moment, faults[:3])] if faults else []
        wanted = {name for name in known if delivered.get(name, float("inf")) > cut + SLACK_S}
        checked += len(wanted)
        unknown += len(ended)
        missing = [] if found is None else sorted(wanted - found - ended)
        if found is None or said:
            failed.append((moment, said.strip()[-600:]))
        if missing:
            lost.append((moment, missing[:3]))
        if found is not None:
            beyond += len(found - set(known))
            again += [cut - arrived[name] for name in found if arrived.get(name, float("inf")) < cut]
        if (found is None or said or missing or faults) and not (folder / "kept").exists():
            shutil.copytree(folder / "cut", folder / "kept")
    print(f"{len(moments)} power cuts (seed {seed}), {checked} messages looked for: {len(lost)} cuts with a loss, "
          f"{len(failed)} at which the relay did not start without an error; {beyond} found that had not been "
          f"acknowledged yet; {len(again)} would leave a second time, {max(again, default=0) * 1000:.0f} ms after they "
          f"had arrived at most; {unknown} ended with their outcome unknown; a reader of the events had read {read_before} before the "
          f"cuts and {read_after} after them, with a fault at {len(wrong)} cuts")
    if lost or failed or wrong:
        sys.exit(f"FAILED: expected nothing lost and no error; seen: lost {lost[:3]}, errors {failed[:3]}, events {wrong[:3]}")
    if mode == "at-most-once" and again:
        sys.exit(f"FAILED: expected nothing twice; seen: {len(again)}")
    if mode != "at-most-once" and unknown:
        sys.exit(f"FAILED: expected no unknown outcome; seen: {unknown}")


if sys.argv[1] == "load":
    load(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
else:
    replay(pathlib.Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), *sys.argv[6:8])
