#!/usr/bin/env python3
"""Looks for a message in a maildir that Postfix filled, compares it with what was sent, verifies its signatures.

    postfix-mail.py MAILDIR RECIPIENT SENT DNS_TABLE OUT

SENT is the file that was submitted, with LF for line ends, as Postfix keeps mail. OUT gets the message without what
Postfix added, for other verifiers.
"""

import pathlib
import sys

import received


def find(maildir, recipient):
    wanted = f"Delivered-To: {recipient}\n".encode()
    found = [content for path in maildir.glob("new/*") if wanted in (content := path.read_bytes())]
    if len(found) != 1:
        sys.exit(f"FAILED: expected one message for {recipient}; seen: {len(found)}")
    return found[0]


def main():
    maildir, recipient, sent, table, out = sys.argv[1:]
    content = find(pathlib.Path(maildir), recipient)
    content = content[content.index(b"DKIM-Signature:") :].replace(b"\n", b"\r\n")
    pathlib.Path(out).write_bytes(content)
    sent = pathlib.Path(sent).read_bytes().replace(b"\n", b"\r\n")
    if fault := received.difference(sent, received.without_added(content, sent)):
        sys.exit(f"FAILED: {recipient}: {fault}")
    if bad := received.bad_signatures(content, received.read_keys(pathlib.Path(table))):
        sys.exit(f"FAILED: {recipient}: expected two signatures that hold for dkimpy; seen: {bad} that do not")


main()
