#!/usr/bin/env python3
"""Floods a relay, and meanwhile submits codes as an app does.

    overload.py SMTP_PORT MX_PORT RELAY_PID SECONDS [ONLY FLOODS WITH THESE WORDS]

Attackers have addresses from 127.0.1.1 on, the app is at 127.0.0.1. They run on the same machine in a process of their own,
with less right to its cores than the relay and the app. Exits with 1 if a code is not accepted or does not arrive.
"""

import asyncio
import base64
import multiprocessing
import os
import resource
import ssl
import statistics
import sys
import time

PATIENCE_S = 20
PROBE_PAUSE_S = 0.1


def plain(user, password):
    return b"AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()) + b"\r\n"


# --- the app and its mail host


class Sink:
    """Takes everything and remembers when each subject came."""

    def __init__(self):
        self.arrived = {}

    async def serve(self, reader, writer):
        async def say(text):
            writer.write(text)
            await writer.drain()

        try:
            await say(b"220 sink\r\n")
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb == b"EHLO":
                    await say(b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
                elif verb == b"DATA":
                    await say(b"354 go on\r\n")
                    while (line := await reader.readline()) not in (b".\r\n", b""):
                        if line.startswith(b"Subject: ") and (waiting := self.arrived.pop(line[9:].strip(), None)):
                            waiting.set_result(time.perf_counter())
                    await say(b"250 kept\r\n")
                elif verb == b"QUIT":
                    break
                else:
                    await say(b"250 ok\r\n")
        except (ConnectionError, ValueError):
            pass
        finally:
            writer.close()


async def expect(reader, code):
    while True:
        line = await asyncio.wait_for(reader.readline(), PATIENCE_S)
        if line[3:4] != b"-":
            break
    if not line.startswith(code):
        raise RuntimeError(f"expected {code.decode()}, got {line!r}")


async def probe(port, sink, number):
    """One code on a connection of its own; returns the seconds to its 250 and to its arrival."""
    subject = b"code %d" % number
    arrived = sink.arrived[subject] = asyncio.get_running_loop().create_future()
    begun = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await expect(reader, b"220")
        for line, code in [
            (b"EHLO app.test\r\n", b"250"),
            (plain("shop", "secret of shop"), b"235"),
            (b"MAIL FROM:<otp@app.test>\r\n", b"250"),
            (b"RCPT TO:<user%d@example.test>\r\n" % number, b"250"),
            (b"DATA\r\n", b"354"),
            (b"From: otp@app.test\r\nSubject: " + subject + b"\r\n\r\n123456\r\n.\r\n", b"250"),
        ]:
            writer.write(line)
            await expect(reader, code)
        accepted = time.perf_counter()
        return accepted - begun, await asyncio.wait_for(arrived, PATIENCE_S) - begun
    finally:
        writer.close()


# --- attackers: each a coroutine function of the port, the number of the attacker, and what to count with


async def connect(port, number, **options):
    host = f"127.0.1.{1 + number % 250}"
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0), **options)


async def idle(port, number, count):
    """Opens a connection, says nothing, and comes again when it is closed."""
    reader, writer = await connect(port, number)
    await reader.readline()
    count()
    await reader.read()
    writer.close()


async def slow_writer(port, number, count):
    reader, writer = await connect(port, number)
    await reader.readline()
    for octet in b"EHLO " + b"x" * 200:
        writer.write(bytes([octet]))
        await writer.drain()
        count()
        await asyncio.sleep(1)


async def slow_reader(port, number, count):
    """Asks for much and reads nothing of it."""
    reader, writer = await connect(port, number, limit=1)
    writer.write(b"EHLO x\r\n" * 10_000)
    count()
    await asyncio.sleep(3600)


async def as_bulk(port, number):
    reader, writer = await connect(port, number)
    writer.write(b"EHLO x\r\n" + plain("bulk", "secret of bulk"))
    await expect(reader, b"220")
    await expect(reader, b"250")
    await expect(reader, b"235")
    return reader, writer


async def recipients(port, number, count):
    reader, writer = await as_bulk(port, number)
    writer.write(b"MAIL FROM:<otp@app.test>\r\n")
    writer.write(b"".join(b"RCPT TO:<a%d@example.test>\r\n" % each for each in range(100_000)))
    while await reader.readline():
        count()
    writer.close()


async def headers(port, number, count):
    reader, writer = await as_bulk(port, number)
    bombs = [b"X: y\r\n" * 100_000, b"X: " + b"y" * 1_000_000 + b"\r\n", b"X:\r\n" + b" y\r\n" * 200_000, b"Received: x\r\n" * 70_000]
    bomb = bombs[number % len(bombs)]
    writer.write(b"MAIL FROM:<otp@app.test>\r\nRCPT TO:<bulk@example.test>\r\nDATA\r\n")
    writer.write(b"From: otp@app.test\r\n" + bomb + b"\r\nx\r\n.\r\n")
    for _ in range(4):
        await reader.readline()
    count()
    writer.close()


async def chunks(port, number, count):
    reader, writer = await as_bulk(port, number)
    writer.write(b"MAIL FROM:<otp@app.test>\r\nRCPT TO:<bulk@example.test>\r\n")
    games = [b"BDAT 0\r\n" * 50_000, b"BDAT 1\r\nx" * 50_000, b"BDAT 16000000\r\n" + b"x" * 16_000_000, b"BDAT 4000000000\r\nx"]
    writer.write(games[number % len(games)])
    while await reader.readline():
        count()
    writer.close()


async def pipelines(port, number, count):
    reader, writer = await connect(port, number)
    words = [b"NOOP\r\n" * 100_000, b"EHLO x\r\n" * 100_000, b"x" * 1_000_000, b"\r\n" * 300_000]
    writer.write(words[number % len(words)])
    while await reader.readline():
        count()
    writer.close()


# Made once, and without the machine's authorities: reading them takes longer than a handshake.
TRUSTS_ANY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TRUSTS_ANY.check_hostname, TRUSTS_ANY.verify_mode = False, ssl.CERT_NONE


async def handshakes(port, number, count):
    reader, writer = await connect(port, number)
    writer.write(b"STARTTLS\r\n")
    await reader.readline()
    await reader.readline()
    await writer.start_tls(TRUSTS_ANY, server_hostname="relay.app.test")
    count()
    writer.close()


async def passwords(port, number, count):
    reader, writer = await connect(port, number)
    writer.write(b"EHLO x\r\n")
    await expect(reader, b"220")
    await expect(reader, b"250")
    while True:
        writer.write(plain(f"user{number}", f"{number} {time.time()}"))
        if not await reader.readline():
            break
        count()
    writer.close()


async def scram(port, number, count):
    reader, writer = await connect(port, number)
    writer.write(b"EHLO x\r\n")
    await expect(reader, b"220")
    await expect(reader, b"250")
    first = base64.b64encode(b"n,,n=shop,r=rOprNGfwEbeRWgbNEkqO")
    while True:
        writer.write(b"AUTH SCRAM-SHA-256 " + first + b"\r\n")
        if not await reader.readline():
            break
        count()
        writer.write(b"*\r\n")
        await reader.readline()
    writer.close()


ATTACKS = [
    ("nothing", None, 0),
    ("2,500 idle connections from 250 addresses", idle, 2500),
    ("90 connections from one address", idle, -90),
    ("1,000 slow writers", slow_writer, 1000),
    ("500 slow readers", slow_reader, 500),
    ("100,000 RCPTs, 8 connections", recipients, 8),
    ("header bombs, 8 connections", headers, 8),
    ("BDAT games, 8 connections", chunks, 8),
    ("pipelines of 600 kB, 16 connections", pipelines, 16),
    ("STARTTLS, 32 connections", handshakes, 32),
    ("PLAIN, 500 connections from 250 addresses", passwords, 500),
    ("PLAIN, 90 connections from one address", passwords, -90),
    ("SCRAM, 250 connections", scram, 250),
    ("nothing, afterwards", None, 0),
]


def attack(coroutine, port, attackers, counter):
    """The life of an attacking process: so many attackers, each of whom comes again when it is thrown out."""
    os.nice(15)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

    def count():
        counter.value += 1

    async def again_and_again(number):
        # All attackers of one address have the same number.
        place = 0 if attackers < 0 else number
        while True:
            try:
                await coroutine(port, place, count)
            except (OSError, RuntimeError, asyncio.TimeoutError, ValueError):
                pass
            await asyncio.sleep(0.05)

    async def all_of_them():
        await asyncio.gather(*(again_and_again(number) for number in range(abs(attackers))))

    asyncio.run(all_of_them())


def memory_mb(pid, field):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def processor_s(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def main(port, mx_port, pid, seconds, only=""):
    sink = Sink()
    server = await asyncio.start_server(sink.serve, "127.0.0.1", mx_port)
    number, is_fine = 0, True
    await probe(port, sink, number)
    print(f"{'flood':<44} codes  250 after p50, max       arrived p50, max       relay's CPU  RSS       flood's deeds")
    for name, coroutine, attackers in ATTACKS:
        if coroutine and only not in name:
            continue
        # Without a lock: the one that writes it is killed, maybe while it would hold it.
        counter = multiprocessing.Value("Q", 0, lock=False)
        attacker = multiprocessing.Process(target=attack, args=(coroutine, port, attackers, counter), daemon=True)
        if coroutine:
            attacker.start()
            await asyncio.sleep(1.5)
        accepted, arrived, faults, begun, rss = [], [], [], time.monotonic(), 0
        used = processor_s(pid)
        while time.monotonic() - begun < seconds:
            number += 1
            try:
                one, other = await probe(port, sink, number)
                accepted.append(one * 1000)
                arrived.append(other * 1000)
            except (OSError, RuntimeError, asyncio.TimeoutError) as error:
                faults.append(repr(error))
            rss = max(rss, memory_mb(pid, "VmRSS"))
            await asyncio.sleep(PROBE_PAUSE_S)
        used = (processor_s(pid) - used) / (time.monotonic() - begun)
        if coroutine:
            attacker.kill()
            attacker.join()
        row = [f"{statistics.median(times):8.1f} {max(times):8.1f} ms" if times else "none" for times in (accepted, arrived)]
        print(f"{name:<44} {len(accepted):5}  {row[0]:<22}  {row[1]:<22}  {used:6.2f}   {rss:6.1f} MB  {counter.value}", flush=True)
        if faults:
            is_fine = False
            print(f"  {len(faults)} codes were not taken: {faults[0]}", flush=True)
    print(f"peak RSS {memory_mb(pid, 'VmHWM'):.1f} MB")
    # Who still connects would be left with an event loop that is closed.
    server.close()
    return is_fine


sys.exit(0 if asyncio.run(main(*(int(argument) for argument in sys.argv[1:5]), *sys.argv[5:])) else 1)
