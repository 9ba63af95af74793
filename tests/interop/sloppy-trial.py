#!/usr/bin/env python3
"""Sends a message to each sloppy host by the relay and by Postfix at the same time, and says who was there when.

    sloppy-trial.py RELAY-PORT POSTFIX-PORT INDEX ROUNDS WAIT [KIND...]

WAIT: seconds that a round waits for those who are late. Ends with status 1 where the relay is later than Postfix by more
than half a second at the median, did not deliver what Postfix did, or delivered more copies.
"""

import concurrent.futures
import json
import pathlib
import smtplib
import statistics
import sys
import time

from sloppy_hosts import KINDS

LATER_MAX_S = 0.5
SENDER = "otp@app.test"


def message(kind, recipient):
    text = "123456 is your code.\r\n"
    if kind.message == "8-bit":
        text = "Ihr Schlüssel ist 123456.\r\n"
    if kind.message == "large":
        text += "It is a long story, told in many lines.\r\n" * 800
    return (
        f"From: {SENDER}\r\nTo: {recipient}\r\nSubject: 123456 is your code\r\nMIME-Version: 1.0\r\n"
        "Date: Sat, 21 Nov 2026 10:00:00 +0000\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Transfer-Encoding: 8bit\r\nMessage-ID: <{time.time_ns()}@app.test>\r\n\r\n{text}"
    ).encode()


def submit(port, kind, recipient):
    options = {"8-bit": ["BODY=8BITMIME"], "utf8": ["SMTPUTF8", "BODY=8BITMIME"]}.get(kind.message, [])
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as smtp:
        smtp.ehlo("app.test")
        since = time.time()
        smtp.sendmail(SENDER, recipient, message(kind, recipient), options)
    return recipient, since


def taken(index):
    """When each recipient's message was taken, as often as it was."""
    times = {}
    for line in pathlib.Path(index).read_text(encoding="utf-8").splitlines():
        seen = json.loads(line)
        times.setdefault(seen["to"], []).append(seen["at"])
    return times


def play(ports, index, kinds, number, wait_s):
    """One round; when each recipient's message was handed in."""
    local = {kind.name: "größe" if kind.message == "utf8" else "code" for kind in kinds}
    orders = [(port, kind, f"{local[kind.name]}-{who}-{number}-{code}@{kind.name}.test") for kind in kinds
              for who, port in ports.items() for code in range(kind.codes)]
    with concurrent.futures.ThreadPoolExecutor(min(len(orders), 100)) as pool:
        since = dict(pool.map(lambda order: submit(*order), orders))
    end = time.time() + wait_s
    while time.time() < end and not since.keys() <= taken(index).keys():
        time.sleep(0.2)
    return since


def median(seconds):
    return statistics.median(seconds)


def show(seconds):
    return "never" if seconds == float("inf") else f"{seconds:.2f} s"


def main():
    relay, postfix, index, rounds, wait_s, *names = sys.argv[1:]
    kinds = [kind for kind in KINDS if not names or kind.name in names]
    ports = {"ours": int(relay), "postfix": int(postfix)}
    since = {}
    for number in range(int(rounds)):
        since.update(play(ports, index, kinds, number, float(wait_s)))
    # A copy too many may come a little later.
    time.sleep(min(10, float(wait_s)))
    times = taken(index)
    print(f"{'host':24} {'ours':>9} copies {'Postfix':>9} copies  what it is")
    faults = []
    if not since.keys() & times.keys():
        sys.exit("nothing arrived anywhere: the hosts do not work")
    for kind in kinds:
        figures = {}
        for who in ports:
            mine = [to for to in since if to.endswith(f"@{kind.name}.test") and f"-{who}-" in to]
            # Of several that were sent at once the last one counts.
            late = {}
            for to in mine:
                took = min(times[to]) - since[to] if to in times else float("inf")
                number = to.split("@")[0].split("-")[-2]
                late[number] = max(late.get(number, 0), took)
            late = list(late.values())
            figures[who] = (median(late), max(len(times.get(to, [])) for to in mine), late.count(float("inf")))
        (ours, our_copies, lost), (theirs, their_copies, their_lost) = figures["ours"], figures["postfix"]
        print(f"{kind.name:24} {show(ours):>9} {our_copies:6} {show(theirs):>9} {their_copies:6}  {kind.about}")
        if ours > theirs + LATER_MAX_S or lost > their_lost or our_copies > max(their_copies, 1):
            faults.append(kind.name)
    if faults:
        sys.exit(f"later than Postfix, or more copies: {', '.join(faults)}")


main()
