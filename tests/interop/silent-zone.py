#!/usr/bin/env python3
"""Submits codes to a zone of silent hosts, and codes to somebody else's host beside them.

    silent-zone.py SMTP-PORT SINK-INDEX CODES

Prints, one a line: what a code took before the flood, how long the flood was, what a code to a host that took mail before
takes beside it, and one to a host that nobody has sent to, all in milliseconds; "never" if it did not come within 12 s.
"""

import concurrent.futures
import json
import sys
import time

from smtp_client import Client

PATIENCE_S = 12
# Recipients of one message, and clients at once.
AT_ONCE, CLIENTS = 50, 8


def submit(client, *recipients):
    client.say("MAIL FROM:<otp@app.test>")
    for recipient in recipients:
        client.say(f"RCPT TO:<{recipient}>")
    client.say("DATA", 354)
    client.say("From: otp@app.test\r\nSubject: 123456 is your code\r\n\r\nThe code.\r\n.")


def cost(client, index, recipient):
    began = time.time()
    submit(client, recipient)
    while time.time() < began + PATIENCE_S:
        with open(index, encoding="utf-8") as lines:
            for line in map(json.loads, lines):
                if recipient in line["to"]:
                    return round((line["at"] - began) * 1000)
        time.sleep(0.01)
    return "never"


def flood(first):
    with Client(port) as client:
        client.greet()
        submit(client, *(f"user@{number}.silent.test" for number in range(first, min(codes, first + AT_ONCE))))


port, index, codes = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with Client(port) as client:
    client.greet()
    cost(client, index, "first@known.test")
    print(cost(client, index, "second@known.test"), flush=True)
    began = time.time()
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(flood, range(0, codes, AT_ONCE)))
    print(round((time.time() - began) * 1000), flush=True)
    # What can be on its way is on its way by then.
    time.sleep(3)
    print(cost(client, index, "third@known.test"), flush=True)
    print(cost(client, index, "user@new.test"), flush=True)
