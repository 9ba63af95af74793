#!/usr/bin/env python3
"""Sends odd messages through the relay and compares what arrives with what was sent, octet by octet.

    byte-exact.py RELAY_PORT SINK_FOLDER DATA|BDAT DNS_TABLE

The third word is how the mail host wants its mail. Each message goes in by DATA, by BDAT in one chunk, and by BDAT in
several. Of what arrives, the fields that the relay adds on top are taken off; the rest has to be what was sent. Their
two DKIM signatures are verified by dkimpy. Fields that do not leave, and lines that are too long, are as README.md says.
"""

import json
import pathlib
import quopri
import random
import sys
import time

import received
import smtp_client

COUNT = 100
SEED = 20
WAIT_S = 120
FROM = b"From: otp@app.test\r\n"
HEAD = (
    FROM + b"To: somebody@example.test\r\nSubject: odd\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\n"
    b"Message-ID: <odd@app.test>\r\n"
)
BLANK_BEFORE_COLON = b"X-Odd \t: value\r\n"
# What does not leave.
PRIVATE = b"Return-Path: <x@app.test>\r\nBcc: hidden@example.test\r\n"
LONG = b"z" * 5000
CONTROLS = bytes(octet for octet in range(1, 32) if octet not in b"\r\n") + b"\x7f"


def body(octets, head=HEAD):
    return head + b"\r\n" + octets


def head(octets):
    return body(b"text\r\n", HEAD + octets)


def named_messages(rng):
    """Cases with a reason. A name that starts with utf8 is sent with SMTPUTF8 to an address that is not ASCII."""
    return {
        "plain": body(b"your code is 123456\r\n"),
        "latin1-body": body("Ihr Schlüssel: größer\r\n".encode("latin-1")),
        "utf8-body": body("код 123456, 暗号 🔑\r\n".encode()),
        "every-high-octet": body(bytes(range(128, 256)) + b"\r\n"),
        "utf8-subject": head("X-Text: κωδικός\r\n".encode()),
        "utf8-from-name": body(b"x\r\n", "From: Größe <otp@app.test>\r\n".encode()),
        "latin1-field": head("X-Text: größer\r\n".encode("latin-1")),
        "byte-order-mark": body(b"\xef\xbb\xbftext\r\n"),
        "unicode-line-ends": body("a\u0085b\u2028c\u2029d\r\n".encode()),
        "dot": body(b".\r\n"),
        "two-dots": body(b"..\r\n"),
        "three-dots": body(b"...\r\n"),
        "lines-of-dots": body(b"".join(b"." * count + b"\r\n" for count in range(1, 40))),
        "leading-dots": body(b".a\r\n..b\r\n...c\r\n. d\r\n.\te\r\n"),
        "dot-and-blank": body(b". \r\n.\t\r\n"),
        "dots-between-empty-lines": body(b"\r\n.\r\n\r\n..\r\n\r\n"),
        "dot-first-in-long-line": body(b"." + b"x" * 997 + b"\r\n"),
        "dot-without-end": body(b"text\r\n."),
        "dots-without-end": body(b"text\r\n.."),
        "dot-field": head(b".Odd: name\r\n"),
        "998-octets": body(b"x" * 998 + b"\r\n"),
        "998-octets-often": body(100 * (b"y" * 998 + b"\r\n")),
        "998-octets-of-utf8": body("ж".encode() * 499 + b"\r\n"),
        "longer-than-allowed": body(LONG + b"\r\na.=\t \r\n"),
        "998-octets-in-a-field": head(b"X-Long: " + b"v" * 990 + b"\r\n"),
        "empty-body": body(b""),
        "only-fields": HEAD,
        "only-fields-without-end": HEAD[:-2],
        "one-octet": body(b"1"),
        "one-octet-and-line-end": body(b"1\r\n"),
        "one-high-octet": body(b"\xff"),
        "no-final-line-end": body(b"first\r\nlast"),
        "one-empty-line": body(b"\r\n"),
        "only-empty-lines": body(50 * b"\r\n"),
        "trailing-empty-lines": body(b"text\r\n" + 20 * b"\r\n"),
        "trailing-lines-of-blanks": body(b"text\r\n" + 5 * b" \t \r\n"),
        "blanks-without-end": body(b"text\r\n \t"),
        "blanks-at-line-ends": body(b"a \r\nb\t\r\nc  \t \r\nd\r\n"),
        "blanks-at-line-starts": body(b" a\r\n\tb\r\n  \tc\r\n"),
        "runs-of-blanks": body(b"a  b\t\tc \t d\r\n"),
        "tabs": body(b"\t\t\t\r\n\tx\ty\t\r\n"),
        "controls": body(CONTROLS + b"\r\n"),
        "control-lines": body(b"".join(bytes([octet]) + b"\r\n" for octet in CONTROLS)),
        "controls-in-a-field": head(b"X-Odd: a\x01b\x1bc\x7fd\r\n"),
        "escape-codes": body(b"\x1b[31mred\x1b[0m\x07\x08\r\n"),
        "folded": head(b"X-Folded: one\r\n two\r\n\tthree\r\n    four\r\n"),
        "folded-at-once": head(b"X-Folded:\r\n one\r\n"),
        "folded-blanks": head(b"X-Folded: one\r\n \t \r\n two\r\n"),
        "folded-subject": body(b"x\r\n", HEAD.replace(b"Subject: odd", b"Subject: odd\r\n  and\r\n\tfolded")),
        "folded-from": body(b"x\r\n", b"From: \"Example,\r\n Shop\"\r\n\t<otp@app.test>\r\n"),
        "empty-field": head(b"X-Empty:\r\nX-Blank: \r\nX-Tab:\t\r\n"),
        "blanks-in-fields": head(b"X-Odd:   a   b\t\tc   \r\n"),
        "blank-before-colon": head(BLANK_BEFORE_COLON),
        "odd-field-names": head(b"!#$%&'*+-./09AZ^_`az{|}~: value\r\nx-lower: v\r\nX-UPPER: V\r\n"),
        "many-fields": head(b"".join(b"X-Field-%d: value %d\r\n" % (n, n) for n in range(500))),
        "same-field-often": head(50 * b"X-Same: value\r\n"),
        "two-subjects": head(b"Subject: another\r\n"),
        "two-to-and-cc": head(b"To: other@example.test\r\nCc: c@example.test\r\nCc: d@example.test\r\n"),
        "every-signed-field": head(
            b"Sender: otp@app.test\r\nReply-To: r@app.test\r\nIn-Reply-To: <a@b>\r\nReferences: <a@b> <c@d>\r\n"
            b"Auto-Submitted: auto-generated\r\nList-Unsubscribe: <https://app.test/u>\r\nFeedback-ID: a:b\r\n"
        ),
        "received-before": body(b"x\r\n", b"Received: from a by b; Sat, 21 Nov 2026 10:00:00 +0000\r\n" + HEAD),
        "signed-before": body(b"x\r\n", b"DKIM-Signature: v=1; a=rsa-sha256; d=else.test; s=x; b=\r\n\tAAAA\r\n" + HEAD),
        "return-path": body(b"x\r\n", PRIVATE + HEAD),
        "two-authors": body(b"x\r\n", b"From: otp@app.test, Other <two@app.test>\r\n"),
        "comments-in-from": body(b"x\r\n", b"From: (a comment) otp@app.test (another)\r\n"),
        "only-from": body(b"no date, no id\r\n", FROM),
        "only-date-missing": body(b"x\r\n", FROM + b"Message-ID: <a@app.test>\r\n"),
        "only-id-missing": body(b"x\r\n", FROM + b"dATE: Sat, 21 Nov 2026 10:00:00 +0000\r\n"),
        "mbox-line": body(b"From somebody Sat Nov 21\r\n>From quoted\r\nFrom: not a field\r\n"),
        "smtp-in-body": body(b"QUIT\r\nMAIL FROM:<x@app.test>\r\nRSET\r\nBDAT 9 LAST\r\n354 go\r\n"),
        "fields-in-body": body(b"Subject: in the body\r\n\r\nDKIM-Signature: v=1\r\n"),
        "multipart": body(
            b"--x\r\nContent-Type: text/plain\r\n\r\n123456\r\n--x\r\nContent-Type: text/html\r\n\r\n<b>123456</b>\r\n--x--",
            HEAD + b'MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary="x"\r\n',
        ),
        "500-kilobytes": body(b"".join(line(rng, b"abcdefghij .=\xc3\xa4", 76) for _ in range(6500))[:500_000]),
        "500-kilobytes-of-dots": body(125_000 * b"..\r\n"),
        "utf8-address": body("Добрый день\r\n".encode(), HEAD + "X-To: почта@example.test\r\n".encode()),
        "utf8-address-ascii-content": body(b"plain\r\n"),
        "utf8-address-long": body("ü".encode() * 499 + b"\r\n.\r\n"),
    }


def line(rng, alphabet, length_max):
    return bytes(rng.choices(alphabet, k=rng.randint(0, length_max))) + b"\r\n"


def random_message(rng):
    """Anything but NUL, and CR and LF only as CRLF."""
    alphabet = rng.choice([b".", b". \t", b".a\xe9", b"." + CONTROLS, bytes(o for o in range(1, 256) if o not in b"\r\n")])
    lines = b"".join(line(rng, alphabet, rng.choice([0, 3, 80, 998])) for _ in range(rng.randint(0, 40)))
    fields = b"".join(b"X-R%d:%s" % (n, line(rng, b" \tab.:;\xe9", 60)) for n in range(rng.randint(0, 10)))
    unended = bytes(rng.choices(alphabet, k=rng.randint(1, 80))) if rng.random() < 0.3 else b""
    return body(lines + unended, HEAD + fields)


def messages():
    rng = random.Random(SEED)
    made = named_messages(rng)
    for number in range(COUNT - len(made)):
        made[f"random-{number}"] = random_message(rng)
    assert len(made) == COUNT
    return made


def chunks_of(rng, content):
    """Cuts anywhere, also between CR and LF and behind nothing."""
    cuts = sorted(rng.randint(0, len(content)) for _ in range(rng.randint(1, 6)))
    cuts = [0, *cuts, len(content)]
    return [content[a:b] for a, b in zip(cuts, cuts[1:])]


def submit(client, rng, name, content, way):
    recipient = f"{name}.{way}@example.test"
    parameters = " BODY=8BITMIME" if not content.isascii() else ""
    if name.startswith("utf8-address"):
        recipient, parameters = "ü-" + recipient, parameters + " SMTPUTF8"
    client.envelope("otp@app.test", [recipient], parameters)
    if way == "data":
        client.data(content)
    elif way == "one-chunk":
        client.bdat([content])
    else:
        client.bdat(chunks_of(rng, content))
    return recipient


def expected(content, verb):
    """The content as it should arrive, but for what is added on top."""
    content = content.replace(PRIVATE, b"")
    if LONG in content:
        # The one part is encoded before it is signed, as Python encodes it too.
        fields, text = content.split(b"\r\n\r\n", 1)
        text = quopri.encodestring(text.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")
        content = fields + b"\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + text
    # Receivers disagree about the name of such a field, so its colon is put where RFC 5322 wants it.
    content = content.replace(BLANK_BEFORE_COLON, b"X-Odd: value\r\n")
    if b"\r\n\r\n" not in content:
        # Fields alone get the empty line that ends them.
        content += b"\r\n" if content.endswith(b"\r\n") else b"\r\n\r\n"
    if verb == "DATA" and not content.endswith(b"\r\n"):
        content += b"\r\n"
    return content


def arrived(folder, count):
    end = time.monotonic() + WAIT_S
    lines = []
    while len(lines) < count and time.monotonic() < end:
        lines = (folder / "index").read_text(encoding="utf-8").splitlines()
        time.sleep(0.1)
    return [json.loads(line) for line in lines]


def main():
    port, folder, verb = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    keys = received.read_keys(pathlib.Path(sys.argv[4]))
    rng = random.Random(SEED)
    sent = {}
    ways = {"data": 0, "one-chunk": 0, "chunks": 0}
    with smtp_client.Client(port) as client:
        client.greet("shop", "secret")
        for name, content in messages().items():
            for way in ways:
                if way == "data" and not content.endswith(b"\r\n"):
                    continue
                try:
                    sent[submit(client, rng, name, content, way)] = content
                except smtp_client.Refused as refused:
                    sys.exit(f"FAILED: {name} by {way}: expected 250; seen: {refused}")
                ways[way] += 1
    seen = {}
    for entry in arrived(folder, len(sent)):
        (recipient,) = entry["to"]
        assert recipient not in seen, f"{recipient} arrived twice"
        seen[recipient] = entry
    faults, signatures = [], 0
    for recipient, content in sent.items():
        entry = seen.get(recipient)
        if entry is None:
            faults.append(f"{recipient}: expected to arrive; seen: nothing")
            continue
        octets = (folder / entry["file"]).read_bytes()
        try:
            difference = received.difference(expected(content, verb), received.without_added(octets, content))
            if difference:
                faults.append(f"{recipient}: {difference}")
            if entry["verb"] != verb:
                faults.append(f"{recipient}: expected {verb}; seen: {entry['verb']}")
            signatures += 2
            if bad := received.bad_signatures(octets, keys):
                faults.append(f"{recipient}: expected two good signatures; seen: {bad} bad")
        except (AssertionError, received.dkim.DKIMException) as error:
            faults.append(f"{recipient}: {error}")
    for fault in faults:
        print(f"FAILED: out by {verb}: {fault}")
    if faults:
        sys.exit(f"FAILED: out by {verb}: {len(faults)} of {len(sent)} messages are not as they should be")
    octets = sum(map(len, sent.values()))
    counts = ", ".join(f"{count} by {way}" for way, count in ways.items())
    print(f"ok: out by {verb}: {COUNT} odd messages, {len(sent)} submissions ({counts}), {octets} octets: all as sent")
    print(f"ok: out by {verb}: {signatures} signatures hold for dkimpy")


main()
