"""Sends mail without a pause and verifies what arrives, at once and by what each name server shows at that moment: with dkimpy, and
with OpenDKIM, whose filter is run over each message.

    rotation.py FOLDER PORT SERVER...     until FOLDER/stop is there; FOLDER/mail is the folder of sink.py
"""

import email.utils
import json
import pathlib
import re
import smtplib
import subprocess
import sys
import threading
import time

import dkim
import dns.resolver

folder, port, servers = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
accepted = {}
is_over = threading.Event()


def send():
    number = 0
    while not (folder / "stop").exists():
        number += 1
        # Every third is refused at first, and signed again for its second attempt.
        name = f"{'busy' if number % 3 == 0 else 'user'}{number}@example.test"
        content = (
            f"From: App <otp@app.test>\r\nTo: {name}\r\nSubject: {number}\r\nDate: {email.utils.formatdate()}\r\n"
            f"Message-ID: <{number}@app.test>\r\n\r\n{number} is your code\r\n"
        )
        with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
            client.sendmail("otp@app.test", [name], content)
        accepted[name] = time.time()
        time.sleep(0.2)
    is_over.set()


def asker(server):
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.lifetime = [server], 10

    def text(name, timeout=5):
        del timeout
        for _ in range(20):
            try:
                answer = resolver.resolve(name.decode().rstrip("."), "TXT")
                return b"".join(next(iter(answer)).strings)
            # A server that is being restarted.
            except (dns.resolver.NoNameservers, dns.resolver.LifetimeTimeout):
                time.sleep(0.1)
        return None

    return text


class OpenDkim:
    """The filter, with one of the name servers for its resolver."""

    def __init__(self, server):
        resolver, self.settings = folder / f"unbound-{server}.conf", folder / f"opendkim-{server}.conf"
        resolver.write_text(
            'server:\n  do-not-query-localhost: no\n  local-zone: "test." nodefault\n  module-config: "iterator"\n'
            f'stub-zone:\n  name: "app.test"\n  stub-addr: {server}\n'
        )
        self.settings.write_text(f"ResolverConfiguration {resolver}\nMode v\nSyslog no\n")

    def verdict(self, file):
        """What it says of the signatures. A query that nobody answered, since the server is being restarted, is asked again."""
        for _ in range(5):
            command = ["opendkim", "-x", self.settings, "-t", file, "-vv"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            verdict = "".join(line for line in (done.stdout + done.stderr).splitlines(keepends=True) if "mlfi_" not in line)
            if "key DNS query failed" not in verdict:
                break
        return verdict

    def believes(self, file):
        verdict = self.verdict(file)
        passed = set(re.findall(r"(?m)^\s*dkim=pass .*?header\.a=(\S+)", verdict))
        return passed == {"rsa-sha256", "ed25519-sha256"} and "dkim=fail" not in verdict, verdict


def selectors(content):
    unfolded = re.sub(rb"\r\n[ \t]+", b" ", content.partition(b"\r\n\r\n")[0])
    return [found.decode() for found in re.findall(rb"(?im)^DKIM-Signature:.*?\bs=([^; ]+)", unfolded)]


def main():
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    askers = [asker(server) for server in servers]
    filters = [OpenDkim(server) for server in servers]
    seen, kinds, retried, late = 0, {}, 0, 0
    changed_at = None
    index = folder / "mail" / "index"
    patience = time.time() + 600
    while time.time() < patience:
        lines = index.read_text(encoding="utf-8").splitlines() if index.exists() else []
        for line in lines[seen:]:
            try:
                entry = json.loads(line)
            except ValueError:
                break
            seen += 1
            file = folder / "mail" / entry["file"]
            content = file.read_bytes()
            names = selectors(content)
            if len(names) != 2:
                sys.exit(f"{entry['file']}: signatures {names}")
            for ask, opendkim, server in zip(askers, filters, servers):
                is_believed, verdict = opendkim.believes(file)
                if not is_believed:
                    sys.exit(f"{entry['file']}: by {server} OpenDKIM says {verdict}")
                for number, name in enumerate(names):
                    if not dkim.DKIM(content).verify(idx=number, dnsfunc=ask):
                        sys.exit(f"{entry['file']}: signature {name} does not verify by {server}")
            name = names[0].removesuffix("-ed25519")
            kinds[name] = kinds.get(name, 0) + 1
            if name != "otp1" and changed_at is None:
                changed_at = entry["at"]
            is_busy = entry["to"][0].startswith("busy")
            retried += is_busy
            late += is_busy and name == "otp1" and changed_at is not None
        if is_over.is_set() and seen >= len(accepted):
            break
        time.sleep(0.05)
    else:
        sys.exit(f"{len(accepted) - seen} messages did not arrive")
    if len(kinds) != 2:
        sys.exit(f"keys used: {kinds}")
    print(f"{seen} messages, {retried} of them retried ({late} with the old key behind the change), all verify by both servers for dkimpy and OpenDKIM: {kinds}")


main()
