#!/usr/bin/env python3
"""Mail hosts that take everything and say nothing behind the final dot.

    silent_hosts.py PORT ADDRESS...

Prints a line when all of them listen, and at the end, by SIGTERM, how many messages are out.
"""

import asyncio
import signal
import sys

REPLIES = {b"EHLO": b"250 silent.test", b"DATA": b"354 go on", b"QUIT": b"221 bye"}


async def main(port, addresses):
    out = 0

    async def serve(reader, writer):
        nonlocal out
        writer.write(b"220 silent.test ESMTP\r\n")
        try:
            while line := await reader.readline():
                writer.write(REPLIES.get(line[:4].upper(), b"250 ok") + b"\r\n")
                if line[:4].upper() == b"DATA":
                    while await reader.readline() not in (b".\r\n", b""):
                        pass
                    out += 1
                    await reader.read()
                    return
        except ConnectionError:
            pass
        finally:
            writer.close()

    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    for address in addresses:
        await asyncio.start_server(serve, address, port, backlog=1024)
    print("listening", flush=True)
    await ended.wait()
    print(f"{out} messages out", flush=True)


asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
