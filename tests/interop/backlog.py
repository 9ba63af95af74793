#!/usr/bin/env python3
"""The client's side of backlog.sh.

    backlog.py fill PORT HTTP_PORT TOKEN MB           submits mail to many recipients until the events of it that the API shows are
                                                      so many megabytes
    backlog.py pairs PORT PORT INDEX ROUNDS RATE      submits RATE codes a second to the first and the second in turn, 10 s each,
                                                      and says how long they took from their last octet to the mail host's
                                                      INDEX: medians and 99th percentiles of each, and the ratio of their medians
"""

import json
import pathlib
import statistics
import sys
import threading
import time

import events_reader
import smtp_client

RECIPIENTS = 50
AT_ONCE = 8
SPAN_S = 10


def submit(client, recipients):
    client.envelope("otp@app.test", recipients)
    client.data(b"From: otp@app.test\r\nSubject: code\r\n\r\n123456 is your code.\r\n")
    return time.time()


def fill(port, http_port, token, wanted):
    seen = {"events": 0, "octets": 0}
    done = threading.Event()

    def read():
        behind = 0
        while not done.is_set():
            try:
                for number, data in events_reader.stream(http_port, token, behind, 5):
                    if number:
                        behind = number
                        seen["events"] += 1
                        seen["octets"] += len(json.dumps(data, separators=(",", ":")))
                    if seen["octets"] >= wanted:
                        done.set()
            except OSError:
                pass

    def send(writer):
        number = 0
        while not done.is_set():
            try:
                with smtp_client.Client(port, 120) as client:
                    client.greet()
                    while not done.is_set():
                        number += 1
                        name = f"somebody-with-a-long-address-{writer}-{number}"
                        submit(client, [f"{name}-{place}@example.test" for place in range(RECIPIENTS)])
            except (OSError, smtp_client.Refused):
                # The queue is full for a moment.
                time.sleep(0.2)

    threads = [threading.Thread(target=read, daemon=True)]
    threads += [threading.Thread(target=send, args=(writer,), daemon=True) for writer in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    if not done.wait(1200):
        sys.exit(f"FAILED: expected {wanted} octets; seen: {seen}")
    for thread in threads[1:]:
        thread.join(120)
    print(f"{seen['events']} events, {seen['octets'] / 1e6:.0f} MB of them wait for a webhook that nobody answers")


def at_a_rate(port, prefix, rate, sent):
    """An open loop: each code at its time, whatever became of those before it."""
    clients = [smtp_client.Client(port, 60) for _ in range(AT_ONCE)]
    for client in clients:
        client.greet()
    begin = time.monotonic() + 0.1

    def send(writer):
        for number in range(writer, rate * SPAN_S, AT_ONCE):
            time.sleep(max(0, begin + number / rate - time.monotonic()))
            name = f"{prefix}-{number}"
            before = time.time()
            submit(clients[writer], [f"{name}@example.test"])
            sent[name] = before

    threads = [threading.Thread(target=send, args=(writer,)) for writer in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()


def arrived(index):
    lines = map(json.loads, index.read_text(encoding="utf-8").splitlines())
    return {line["to"][0].split("@")[0]: line["at"] for line in lines}


def pairs(ports, index, rounds, rate):
    sent, order = {}, []
    # One each that does not count.
    for number in range(rounds + 1):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            prefix = f"pair{number}-{side}"
            at_a_rate(ports[side], prefix, rate, sent)
            order.append((number, side, prefix))
            time.sleep(0.5)
    time.sleep(2)
    at = arrived(index)
    lost = [name for name in sent if name not in at]
    figures = ([], [])
    for number, side, prefix in order:
        if number == 0:
            continue
        took = sorted((at[name] - sent[name]) * 1000 for name in sent if name.startswith(prefix + "-") and name in at)
        figures[side].append((took[len(took) // 2], took[len(took) * 99 // 100]))
    for side, name in enumerate(("without", "with   ")):
        p50s, p99s = zip(*figures[side])
        print(f"{name} a backlog: p50 {statistics.median(p50s):.2f} ms, p99 {statistics.median(p99s):.2f} ms "
              f"({', '.join(f'{p99:.1f}' for p99 in p99s)})")
    ratio = [statistics.median(p[which] for p in figures[1]) / statistics.median(p[which] for p in figures[0]) for which in (0, 1)]
    paired = statistics.median(two[1] / one[1] for one, two in zip(*figures))
    print(f"ratios of the medians: p50 {ratio[0]:.2f}, p99 {ratio[1]:.2f}; median of the pairs' ratios of p99 {paired:.2f}")
    if lost:
        sys.exit(f"FAILED: expected all to arrive; seen: {len(lost)} missing")


if sys.argv[1] == "fill":
    token = pathlib.Path(sys.argv[4]).read_text(encoding="ascii").strip()
    fill(int(sys.argv[2]), int(sys.argv[3]), token, float(sys.argv[5]) * 1e6)
else:
    pairs([int(sys.argv[2]), int(sys.argv[3])], pathlib.Path(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
