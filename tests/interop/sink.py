#!/usr/bin/env python3
"""A mail host for one test: takes everything and keeps the exact octets. Only mail for an address that starts with "echo"
is refused, with a reply that quotes its subject and its last line.

    sink.py FOLDER [--chunking] [--keep index|content] [--pause-ms N] [--busy-first]

Listens on 127.0.0.1 and prints the port. Each message becomes FOLDER/NNNNNN.eml (unless `--keep index`) and a line of
FOLDER/index: {"at": seconds, "file", "from", "to": [...], "verb": "DATA" or "BDAT", "body": SHA-256 of it}. 250 is said
after the line is written, and N milliseconds later. With `--busy-first` the first RCPT of each address that starts with
"busy", and every one of those that start with "never", is answered 450.
"""

import argparse
import asyncio
import hashlib
import json
import pathlib
import re
import time

LINE_MAX = 4 << 20


class Sink:
    def __init__(self, options):
        self.folder, self.chunking, self.keep = options.folder, options.chunking, options.keep
        self.pause_s = options.pause_ms / 1000
        self.index = open(self.folder / "index", "a", encoding="utf-8")
        self.count = 0
        self.busy_first, self.refused = options.busy_first, set()

    async def take(self, mail, recipients, verb, content):
        if recipients[0].startswith("echo"):
            subject = re.search(rb"(?m)^Subject: (.*)\r$", content).group(1).decode()
            return f"554 5.7.1 this looks like spam: {subject} / {content.split()[-1].decode()}"
        self.count += 1
        name = f"{self.count:06}.eml"
        if self.keep == "content":
            (self.folder / name).write_bytes(content)
        body = hashlib.sha256(content.partition(b"\r\n\r\n")[2]).hexdigest()
        line = {"at": time.time(), "file": name, "from": mail, "to": recipients, "verb": verb, "body": body}
        self.index.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.index.flush()
        await asyncio.sleep(self.pause_s)
        return "250 2.0.0 kept"

    def is_busy(self, recipient):
        if not self.busy_first or recipient in self.refused or not recipient.startswith(("busy", "never")):
            return False
        if recipient.startswith("busy"):
            self.refused.add(recipient)
        return True

    async def serve(self, reader, writer):
        def say(*lines):
            for number, line in enumerate(lines):
                separator = "-" if number < len(lines) - 1 else " "
                writer.write(f"{line[:3]}{separator}{line[4:]}\r\n".encode())

        extensions = ["PIPELINING", "SIZE 67108864", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
        if self.chunking:
            extensions.append("CHUNKING")
        mail, recipients, chunks = "", [], b""
        say("220 sink.test ESMTP")
        try:
            while True:
                await writer.drain()
                line = (await reader.readuntil(b"\r\n"))[:-2].decode()
                verb = line.split(" ")[0].upper()
                if verb == "EHLO":
                    say("250 sink.test", *[f"250 {extension}" for extension in extensions])
                elif verb == "MAIL":
                    mail, recipients, chunks = path_of(line), [], b""
                    say("250 2.1.0 ok")
                elif verb == "RCPT":
                    if self.is_busy(path_of(line)):
                        say("450 4.3.2 system busy")
                    else:
                        recipients.append(path_of(line))
                        say("250 2.1.5 ok")
                elif verb == "DATA" and not recipients:
                    say("554 5.5.1 no valid recipients")
                elif verb == "DATA":
                    say("354 go on")
                    await writer.drain()
                    say(await self.take(mail, recipients, verb, await read_dotted(reader)))
                elif verb == "BDAT" and self.chunking:
                    _, size, *last = line.split(" ")
                    chunks += await reader.readexactly(int(size))
                    say(await self.take(mail, recipients, verb, chunks) if last else "250 2.0.0 go on")
                elif verb in ("RSET", "NOOP"):
                    say("250 2.0.0 ok")
                elif verb == "QUIT":
                    say("221 2.0.0 bye")
                    await writer.drain()
                    return
                else:
                    say(f"502 5.5.1 {verb} is not known here")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def path_of(line):
    return re.search("<(.*?)>", line).group(1)


async def read_dotted(reader):
    lines = []
    while (line := await reader.readuntil(b"\r\n")) != b".\r\n":
        lines.append(line[1:] if line.startswith(b".") else line)
    return b"".join(lines)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--chunking", action="store_true")
    parser.add_argument("--keep", choices=["index", "content"], default="content")
    parser.add_argument("--pause-ms", type=int, default=0)
    parser.add_argument("--busy-first", action="store_true")
    sink = Sink(parser.parse_args())
    server = await asyncio.start_server(sink.serve, "127.0.0.1", 0, limit=LINE_MAX, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
