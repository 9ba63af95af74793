#!/usr/bin/env python3
"""Mail hosts that are slow, sloppy or old, each at an address of its own.

    sloppy_hosts.py list PORT                     one line a kind: domain, addresses by preference, what it is
    sloppy_hosts.py serve PORT INDEX CERT KEY     serves all of them; each message that a host takes is a line of INDEX

A kind is one line of `KINDS`. Its domain is NAME.test; its hosts are at 127.0.2.1 and so on, in the order of the table.
A line of INDEX: {"at": seconds, "kind", "host", "to", "verb", "body", "tls"}. It is written when the host decides to take
the message, before it says so.
"""

import asyncio
import dataclasses
import json
import re
import socket
import ssl
import struct
import sys
import time

OFFERS = ("PIPELINING", "SIZE 10240000", "8BITMIME")


@dataclasses.dataclass(frozen=True)
class Host:
    """How a host behaves. Where nothing is said, it behaves well."""

    # EHLO keywords.
    offers: tuple = OFFERS
    # What it says to a verb in place of what it would say; to "banner" and "dot" too. Lines are given without CRLF.
    says: dict = dataclasses.field(default_factory=dict)
    # Verbs before whose reply it waits for so many seconds; "banner" and "dot" too.
    waits: dict = dataclasses.field(default_factory=dict)
    # BDAT: "taken", "unknown" (the chunk is heard as commands), "dropped" (closes the connection).
    bdat: str = "taken"
    # Several commands in one write: "heard", "lost" (all but the first), "synchronization" (554 and closes), "order" (503
    # for all but the first).
    pipelining: str = "heard"
    # STARTTLS: None, "works", "client-certificate" (wants one, TLS 1.3), "hangs-up" and "refuses" (at the second EHLO),
    # "unanswered", "closes", "resets" (at STARTTLS), "refused" (454), "broken" (no handshake), "old" (no suite of today),
    # "1.0" (no version of today).
    tls: str = None
    # Whether MAIL in clear text is refused with 530.
    requires_tls: bool = False
    # Connections of one client (by its name in EHLO) that it takes at once; others hear 421, or nothing.
    connections: int = 1000
    turns_away: str = "421 4.7.0 too many connections"


@dataclasses.dataclass(frozen=True)
class Kind:
    name: str
    about: str
    # By preference.
    hosts: tuple
    # What is sent: "plain", "8-bit", "utf8" (a local part that is not ASCII), "large" (beyond 20,000 octets).
    message: str = "plain"
    # How many messages are sent at once. The last one counts.
    codes: int = 1


def says(**replies):
    return Host(says={verb: reply for verb, reply in replies.items()})


def waits(**seconds):
    return Host(waits=seconds)


def tls(manner, **more):
    return Host(tls=manner, **more)


CHUNKING = OFFERS + ("CHUNKING",)

KINDS = [
    Kind("good", "a host that does everything right", (Host(),)),
    # Sloppy replies.
    Kind("codes-differ-dot", "250- and 200 at the final dot", (says(dot="250-queued\r\n200 thank you"),)),
    Kind("codes-differ-banner", "220- and 200 as the banner", (says(banner="220-mx\r\n200 hello"),)),
    Kind("codes-differ-ehlo", "250- and 200 to EHLO", (says(EHLO="250-mx.sloppy.test\r\n250-PIPELINING\r\n200 8BITMIME"),)),
    Kind("codes-differ-rcpt", "250- and 200 to RCPT", (says(RCPT="250-known\r\n200 fine"),)),
    Kind("codes-differ-bdat", "250- and 200 to MAIL, RCPT and BDAT", (
        Host(offers=CHUNKING, says={"MAIL": "250-a\r\n200 b", "RCPT": "250-a\r\n200 b", "dot": "250-a\r\n200 b"}),)),
    Kind("no-code-dot", "a line without a code at the final dot", (says(dot="250-queued\r\nas 4711\r\n250 bye"),)),
    Kind("no-code-banner", "a line without a code in the banner", (says(banner="220-mx\r\nhello\r\n220 go on"),)),
    Kind("no-code-ehlo", "a line without a code to EHLO", (says(EHLO="250-mx.sloppy.test\r\nhello\r\n250 SIZE 100000"),)),
    Kind("empty-line-banner", "an empty line before the banner", (says(banner="\r\n220 mx"),)),
    Kind("empty-line-dot", "an empty line before the reply to the dot", (says(dot="\r\n250 queued"),)),
    Kind("odd-2xx-dot", "299 at the final dot", (says(dot="299 sounds good"),)),
    Kind("ehlo-451", "451 to EHLO", (says(EHLO="451 4.3.0 not now"),)),
    Kind("ehlo-502", "502 to EHLO", (says(EHLO="502 5.5.1 what?"),)),
    # A yes or a go-ahead in the wrong place, and another host beside it.
    Kind("data-250", "250 to DATA; another host is well", (says(DATA="250 ok"), Host())),
    Kind("mail-354", "354 to MAIL; another host is well", (says(MAIL="354 go on"), Host())),
    Kind("rcpt-354", "354 to RCPT; another host is well", (says(RCPT="354 go on"), Host())),
    # Extensions that are offered and not supported.
    Kind("bdat-unknown", "CHUNKING is offered, BDAT is 500", (Host(offers=CHUNKING, bdat="unknown"),)),
    Kind("bdat-dropped", "CHUNKING is offered, BDAT closes the connection", (Host(offers=CHUNKING, bdat="dropped"),)),
    Kind("pipelining-554", "PIPELINING is offered, and is 554 synchronization", (Host(pipelining="synchronization"),)),
    Kind("pipelining-503", "PIPELINING is offered, and is 503", (Host(pipelining="order"),)),
    Kind("pipelining-lost", "PIPELINING is offered, and the rest of a write is lost", (Host(pipelining="lost"),)),
    # TLS that breaks.
    Kind("tls-good", "STARTTLS", (tls("works"),)),
    Kind("tls-client-certificate", "wants a client's certificate (TLS 1.3)", (tls("client-certificate"),)),
    Kind("tls-hangs-up", "hangs up at the second EHLO", (tls("hangs-up"),)),
    Kind("tls-refuses", "500 to the second EHLO", (tls("refuses"),)),
    Kind("tls-unanswered", "no answer to STARTTLS", (tls("unanswered"),)),
    Kind("tls-closes", "closes at STARTTLS", (tls("closes"),)),
    Kind("tls-resets", "resets at STARTTLS", (tls("resets"),)),
    Kind("tls-refused", "454 to STARTTLS", (tls("refused"),)),
    Kind("tls-broken", "220 to STARTTLS and then no handshake", (tls("broken"),)),
    Kind("tls-old", "TLS 1.2 with RSA key exchange and CBC only", (tls("old"),)),
    Kind("tls-old-530", "the same, and 530 in clear text; another host is well", (
        tls("old", requires_tls=True), Host())),
    Kind("tls-1-0", "TLS 1.0 only", (tls("1.0"),)),
    # The name server in front of it, for the relay: Postfix has a table.
    Kind("no-edns", "its name server answers a query with EDNS by FORMERR", (Host(),)),
    # Slow hosts.
    Kind("slow-banner", "the banner takes 12 s", (waits(banner=12),)),
    Kind("slow-banner-alone", "the banner takes 25 s, and there is no other host", (waits(banner=25),)),
    Kind("slow-ehlo", "the reply to EHLO takes 12 s", (waits(EHLO=12),)),
    Kind("slow-rcpt", "the reply to RCPT takes 25 s", (waits(RCPT=25),)),
    Kind("slow-rcpt-bdat", "the same, with CHUNKING", (Host(offers=CHUNKING, waits={"RCPT": 25}),)),
    Kind("slow-data", "the reply to DATA takes 25 s", (waits(DATA=25),)),
    Kind("slow-first", "the first host's banner takes 25 s; another host is well", (waits(banner=25), Host())),
    # One connection at a time.
    Kind("one-connection", "one connection, 421 for others; 12 codes", (Host(connections=1),), codes=12),
    Kind("one-connection-silent", "one connection, others are closed; 12 codes", (
        Host(connections=1, turns_away=None),), codes=12),
    # The second host can.
    Kind("second-utf8", "the first host lacks SMTPUTF8", (Host(), Host(offers=OFFERS + ("SMTPUTF8",))), "utf8"),
    Kind("second-size", "the first host's SIZE is too small", (Host(offers=("PIPELINING", "SIZE 20000")), Host()), "large"),
    Kind("second-8bit", "the first host lacks 8BITMIME", (Host(offers=("PIPELINING",)), Host()), "8-bit"),
    Kind("no-8bit", "no host has 8BITMIME", (Host(offers=("PIPELINING",)),), "8-bit"),
]


def addresses():
    """Each host with its kind and address."""
    number = 0
    for kind in KINDS:
        for host in kind.hosts:
            number += 1
            yield kind, host, f"127.0.2.{number}"


class Session:
    def __init__(self, server, kind, host, address, reader, writer):
        self.server, self.kind, self.host, self.address = server, kind, host, address
        self.reader, self.writer = reader, writer
        self.buffer, self.is_first_in_write, self.is_encrypted = b"", True, False
        # Who it is, by its EHLO.
        self.client = None
        self.has_mail, self.recipient = False, None

    async def say(self, verb, reply):
        await asyncio.sleep(self.host.waits.get(verb, 0))
        self.writer.write((self.host.says.get(verb, reply) + "\r\n").encode())
        await self.writer.drain()

    async def more(self):
        chunk = await self.reader.read(65536)
        if not chunk:
            raise ConnectionError
        self.buffer += chunk

    async def line(self):
        """The next command; with what comes behind it in one write becomes what the host does."""
        self.is_first_in_write = b"\r\n" not in self.buffer
        while b"\r\n" not in self.buffer:
            await self.more()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        if self.host.pipelining == "lost":
            self.buffer = b""
        return line.decode()

    async def take(self, verb, content):
        line = {"at": time.time(), "kind": self.kind.name, "host": self.address, "to": self.recipient, "verb": verb,
                "octets": len(content), "tls": self.is_encrypted}
        self.server.index.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.server.index.flush()
        await self.say("dot", "250 2.0.0 taken")

    async def run(self):
        await self.say("banner", "220 mx.sloppy.test ESMTP")
        while True:
            line = await self.line()
            verb = line.split(" ")[0].upper()
            if self.host.pipelining == "synchronization" and self.buffer:
                await self.say("sync", "554 SMTP synchronization error")
                return
            if self.host.pipelining == "order" and not self.is_first_in_write:
                await self.say("order", "503 5.5.1 out of order")
            elif not await self.command(verb, line):
                return

    async def command(self, verb, line):
        """Whether the session goes on."""
        host = self.host
        if verb == "EHLO":
            self.client = self.client or (self.address, line)
            if self not in self.server.sessions.setdefault(self.client, []):
                self.server.sessions[self.client].append(self)
            if len(self.server.sessions[self.client]) > host.connections:
                if host.turns_away:
                    await self.say("away", host.turns_away)
                return False
            return await self.ehlo()
        if verb == "HELO":
            await self.say(verb, "250 mx.sloppy.test")
        elif verb == "STARTTLS" and host.tls and not self.is_encrypted:
            return await self.starttls()
        elif verb == "MAIL":
            needs_tls = host.requires_tls and not self.is_encrypted
            self.has_mail, self.recipient = not needs_tls, None
            await self.say(verb, "530 5.7.0 Must issue a STARTTLS command first" if needs_tls else "250 2.1.0 ok")
        elif verb == "RCPT" and self.has_mail:
            self.recipient = re.search("<(.*?)>", line).group(1)
            await self.say(verb, "250 2.1.5 ok")
        elif verb == "DATA" and self.recipient:
            await self.say(verb, "354 go on")
            if host.says.get("DATA", "354").startswith("354"):
                await self.take("DATA", await self.dotted())
        elif verb == "BDAT" and "CHUNKING" in host.offers and self.recipient and host.bdat != "unknown":
            size = int(line.split(" ")[1])
            if host.bdat == "dropped":
                return False
            while len(self.buffer) < size:
                await self.more()
            content, self.buffer = self.buffer[:size], self.buffer[size:]
            await self.take("BDAT", content)
        elif verb in ("RSET", "NOOP"):
            await self.say(verb, "250 2.0.0 ok")
        elif verb == "QUIT":
            await self.say(verb, "221 2.0.0 bye")
            return False
        elif verb in ("DATA", "RCPT"):
            await self.say(verb, "503 5.5.1 out of order")
        else:
            await self.say(verb, "500 5.5.2 what?")
        return True

    async def ehlo(self):
        if self.is_encrypted and self.host.tls == "hangs-up":
            return False
        if self.is_encrypted and self.host.tls == "refuses":
            await self.say("EHLO", "500 5.5.2 what?")
            return True
        offers = list(self.host.offers)
        if self.host.tls and not self.is_encrypted:
            offers.append("STARTTLS")
        lines = ["mx.sloppy.test", *offers]
        await self.say("EHLO", "\r\n".join([f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"]))
        return True

    async def starttls(self):
        manner = self.host.tls
        if manner == "unanswered":
            await asyncio.sleep(3600)
        if manner == "resets":
            # With a linger time of zero, closing a socket resets the connection.
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        if manner in ("closes", "resets"):
            return False
        if manner == "refused":
            await self.say("STARTTLS", "454 4.7.0 TLS not available")
            return True
        await self.say("STARTTLS", "220 2.0.0 go on")
        if manner == "broken":
            self.writer.write(b"this is no handshake\r\n")
            await self.writer.drain()
            return False
        await self.writer.start_tls(self.server.contexts[manner])
        self.is_encrypted = True
        return True

    async def dotted(self):
        """Up to the final dot; of no content at all it is the first octet."""
        content = b"\r\n"
        while b"\r\n.\r\n" not in content + self.buffer:
            await self.more()
        content, self.buffer = (content + self.buffer).split(b"\r\n.\r\n", 1)
        return content


class Server:
    def __init__(self, index, cert, key):
        self.index = open(index, "a", encoding="utf-8")
        # By host and client.
        self.sessions = {}
        self.contexts = {manner: context(manner, cert, key) for manner in
                         ("works", "client-certificate", "hangs-up", "refuses", "old")}

    async def listen(self, kind, host, address, port):
        async def serve(reader, writer):
            session = Session(self, kind, host, address, reader, writer)
            try:
                await session.run()
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                if session.client:
                    self.sessions[session.client].remove(session)
                writer.close()

        await asyncio.start_server(serve, address, port, backlog=128)


def context(manner, cert, key):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if manner == "old":
        made.maximum_version = ssl.TLSVersion.TLSv1_2
        made.set_ciphers("AES128-SHA:@SECLEVEL=0")
    if manner == "1.0":
        made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1
        made.set_ciphers("ALL:@SECLEVEL=0")
    made.load_cert_chain(cert, key)
    if manner == "client-certificate":
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(cert)
    return made


async def serve(port, index, cert, key):
    server = Server(index, cert, key)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    for kind, host, address in addresses():
        await server.listen(kind, host, address, port)
    print(port, flush=True)
    await asyncio.Event().wait()


def main():
    command, port, *rest = sys.argv[1:]
    if command == "serve":
        asyncio.run(serve(int(port), *rest))
        return
    for kind in KINDS:
        hosts = [address for of, _, address in addresses() if of is kind]
        print(f"{kind.name}.test {','.join(hosts)} {kind.message} {kind.about}")


if __name__ == "__main__":
    main()
