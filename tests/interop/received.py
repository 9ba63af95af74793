"""What the relay may add on top of a message, and whether its signatures hold for dkimpy."""

import re

import dkim


def without_added(received, sent):
    """Takes off two signatures, Received, and Date and Message-ID where they were missing."""

    def lacks(name):
        return re.search(rb"(?mi)^" + name + rb"\s*:", sent.split(b"\r\n\r\n")[0]) is None

    added = [b"DKIM-Signature", b"DKIM-Signature", b"Received"]
    added += [name for name in (b"Date", b"Message-ID") if lacks(name)]
    for name in added:
        field = re.match(name + rb": .*\r\n(?:[ \t].*\r\n)*", received)
        if not field:
            raise AssertionError(f"expected {name.decode()} on top; seen: {received[:60]!r}")
        received = received[field.end() :]
    return received


def difference(wanted, got):
    """Where octets differ first; none if they do not."""
    if wanted == got:
        return None
    at = next((n for n, (a, b) in enumerate(zip(wanted, got)) if a != b), min(len(wanted), len(got)))
    around = slice(max(0, at - 20), at + 20)
    return f"expected {wanted[around]!r} around octet {at} of {len(wanted)}; seen: {got[around]!r} of {len(got)}"


def read_keys(table):
    """The TXT records of a name server's table."""
    lines = [line.split(None, 2) for line in table.read_text().splitlines() if line]
    return {name: text.encode() for name, kind, text in lines if kind == "TXT"}


def bad_signatures(received, keys):
    """How many of the two signatures on top do not hold."""
    verifier = dkim.DKIM(received)
    verdicts = [verifier.verify(idx=n, dnsfunc=lambda name, timeout=5: keys.get(name.decode().rstrip("."))) for n in (0, 1)]
    return verdicts.count(False)
