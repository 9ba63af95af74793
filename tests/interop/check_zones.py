"""The zones of check-zones.sh, each broken in one way, and what `check` has to find of it."""

import http.server
import json
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time

import dns.resolver

RESOLVER = "127.0.30.3"
OTHER_KEY = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


class Case:
    """A zone: `edit` changes its records, `config` the relay's configuration; `finds` is (check, severity)."""

    def __init__(self, name, finds, edit=None, config="", senders=None, lacking=(), host=None, webhook=None, authority=None):
        self.name, self.finds, self.edit, self.config = name, finds, edit, config
        self.senders, self.lacking, self.host = senders, lacking, host
        self.webhook, self.authority = webhook, authority


def drop(*keys):
    return lambda z: [z["records"].pop(key) for key in keys]


def put(key, *values):
    return lambda z: z["records"].update({key: list(values)})


def both(*edits):
    return lambda z: [edit(z) for edit in edits]


def spf(text):
    return lambda z: z["records"].update({("@", "TXT"): ['"' + text.format(ip=z["ip"]) + '"']})


def dmarc(*texts):
    return put(("_dmarc", "TXT"), *[f'"{text}"' for text in texts])


def key(change):
    return lambda z: z["records"].update({("otp1._domainkey", "TXT"): change(z["key"])})


# A relay that has another name than its address, so that only the name in EHLO is wrong.
back_by_host = lambda z: (z["records"].update({("host", "A"): [z["ip"]]}), z.update(ptr="host"))
mx_of = lambda name: both(
    put((name, "MX"), "10 mx"), put((name, "TXT"), '"v=spf1 ip4:127.0.40.0/24 -all"'))

CASES = [
    Case("sound", None),
    Case("ehlo-without-address", ("ehlo-name", "error"), both(drop(("relay", "A")), back_by_host)),
    Case("ehlo-elsewhere", ("ehlo-name", "error"), both(put(("relay", "A"), "127.0.41.1"), back_by_host)),
    Case("ehlo-short", ("ehlo-name", "error"), config="hostname=relay"),
    Case("ptr-missing", ("ptr", "error"), lambda z: z.update(ptr=None)),
    Case("ptr-one-way", ("ptr", "error"), both(put(("host", "A"), "127.0.41.1"), lambda z: z.update(ptr="host"))),
    Case("ptr-generic", ("ptr", "warning"),
         lambda z: (z["records"].update({("dhcp12.pool", "A"): [z["ip"]]}), z.update(ptr="dhcp12.pool"))),
    Case("spf-missing", ("spf", "error"), drop(("@", "TXT"))),
    Case("spf-twice", ("spf", "error"), lambda z: z["records"][("@", "TXT")].append('"v=spf1 -all"')),
    Case("spf-of-others", ("spf", "error"), spf("v=spf1 ip4:192.0.2.1 -all")),
    Case("spf-soft", ("spf", "error"), spf("v=spf1 ip4:192.0.2.1 ~all")),
    Case("spf-everybody", ("spf", "error"), spf("v=spf1 +all")),
    Case("spf-lookups", ("spf", "error"),
         both(spf("v=spf1 " + " ".join(f"a:h{n}" + ".{{zone}}" for n in range(11)) + " ip4:{ip} -all"),
              *[put((f"h{n}", "A"), "192.0.2.9") for n in range(11)])),
    Case("spf-void", ("spf", "error"), spf("v=spf1 a:v1.{{zone}} a:v2.{{zone}} a:v3.{{zone}} ip4:{ip} -all")),
    Case("spf-include", ("spf", "error"), spf("v=spf1 include:gone.{{zone}} ip4:{ip} -all")),
    Case("spf-ptr", ("spf", "warning"), spf("v=spf1 ip4:{ip} ptr -all")),
    Case("spf-of-ehlo", ("spf", "error"), drop(("relay", "TXT"))),
    Case("dkim-missing", ("dkim", "error"), drop(("otp1._domainkey", "TXT"))),
    Case("dkim-twice", ("dkim", "error"), key(lambda k: [k, f'"v=DKIM1; k=ed25519; p={OTHER_KEY}"'])),
    Case("dkim-other", ("dkim", "error"), key(lambda k: [f'"v=DKIM1; k=ed25519; p={OTHER_KEY}"'])),
    Case("dkim-revoked", ("dkim", "error"), key(lambda k: ['"v=DKIM1; k=rsa; p="'])),
    Case("dkim-testing", ("dkim", "error"), key(lambda k: [k.replace('"v=DKIM1;', '"v=DKIM1; t=y;" "')])),
    Case("dkim-one-server", ("dkim", "error"), lacking=[("otp1._domainkey", "TXT")]),
    Case("dkim-none", ("dkim", "error"), senders="*@{zone}\", \"*@nokey.test"),
    Case("dmarc-missing", ("dmarc", "error"), drop(("_dmarc", "TXT"))),
    Case("dmarc-twice", ("dmarc", "error"), dmarc("v=DMARC1; p=none; rua=mailto:a@{zone}", "v=DMARC1; p=reject")),
    Case("dmarc-no-policy", ("dmarc", "warning"), dmarc("v=DMARC1; rua=mailto:a@{zone}")),
    Case("dmarc-odd-policy", ("dmarc", "error"), dmarc("v=DMARC1; p=maybe; rua=mailto:a@{zone}")),
    Case("dmarc-reports-elsewhere", ("dmarc", "warning"), dmarc("v=DMARC1; p=none; rua=mailto:a@nokey.test")),
    Case("dmarc-strict", ("dmarc", "warning"),
         both(dmarc("v=DMARC1; p=none; adkim=s; rua=mailto:a@{zone}"), mx_of("mail")), senders="*@mail.{zone}"),
    Case("from-null-mx", ("from-domain", "error"), put(("@", "MX"), "0 .")),
    Case("from-mx-nowhere", ("from-domain", "warning"), put(("@", "MX"), "10 gone")),
    Case("from-lame", ("from-domain", "error"),
         both(put(("lame", "NS"), "ns.lame"), put(("ns.lame", "A"), "127.0.30.9")), senders="*@{zone}\", \"*@lame.{zone}"),
    Case("bounce-null-mx", ("bounce-domain", "error"),
         both(mx_of("bounce"), put(("bounce", "MX"), "0 .")), config="reverse_path=b@bounce.{zone}"),
    Case("bounce-refused", ("bounce-domain", "warning"), mx_of("bounce"), config="reverse_path=b@bounce.{zone}", host="no-postmaster"),
    Case("bounce-sound", None, mx_of("bounce"), config="reverse_path=b@bounce.{zone}"),
    Case("reverse-path-elsewhere", ("alignment", "warning"), config="reverse_path=b@nokey.test"),
    Case("behind-nat", ("seen-address", "error"), host="nat"),
    Case("no-starttls", ("middlebox", "error"), host="no-starttls"),
    Case("masked", ("middlebox", "error"), host="masked"),
    Case("another-host", ("middlebox", "error"), host="another"),
    Case("port-closed", ("port-25", "error"), host="closed"),
    Case("clock", ("clock", "error"), host="clock"),
    Case("webhook-sound", None, webhook="https://127.0.30.26:{tls}/hook", authority="ca.pem"),
    Case("webhook-closed", ("webhook", "error"), webhook="http://127.0.30.26:1/hook"),
    Case("webhook-untrusted", ("webhook", "error"), webhook="https://127.0.30.26:{tls}/hook"),
    Case("webhook-clock", ("clock", "warning"), webhook="https://127.0.30.26:{late}/hook", authority="ca.pem"),
]
for number, case in enumerate(CASES, 1):
    case.number, case.zone, case.ip = number, f"z{number}.test", f"127.0.40.{number}"


def zone_text(origin, records, ns=("ns1.servers.test.", "ns2.servers.test.")):
    lines = ["$TTL 60", f"$ORIGIN {origin}", f"@ SOA {ns[0]} admin.servers.test. 1 3600 600 86400 5"]
    lines += [f"@ NS {name}" for name in ns]
    for (name, kind), values in records.items():
        lines += [f"{name} {kind} {value}" for value in values]
    return "\n".join(lines).replace("{zone}", origin.rstrip(".")).replace("{{zone}}", origin.rstrip(".")) + "\n"


def prepare(relay, work):
    """Keys, configurations without the port, and the zones of both servers."""
    reverse, first, second = {}, {}, {}
    nokey = {
        ("@", "TXT"): ['"v=spf1 ip4:127.0.40.0/24 -all"'], ("@", "MX"): ["10 mx"], ("mx", "A"): ["127.0.30.25"],
        ("_dmarc", "TXT"): ['"v=DMARC1; p=none; rua=mailto:a@nokey.test"'],
    }
    first["nokey.test."] = second["nokey.test."] = zone_text("nokey.test.", nokey)
    for case in CASES:
        folder = f"{work}/{case.zone}"
        subprocess.run([relay, "dkim", "generate", case.zone, "otp1", "--out", f"{folder}/keys"], check=True,
                       stdout=open(f"{folder}.txt", "w"), stderr=subprocess.DEVNULL)
        lines = [line for line in open(f"{folder}.txt") if line.startswith("otp1._domainkey.")]
        published = lines[0].split(" IN TXT ", 1)[1].strip()
        zone = {"ip": case.ip, "ptr": "relay", "key": published, "records": {
            ("relay", "A"): [case.ip], ("relay", "TXT"): ['"v=spf1 a -all"'], ("@", "TXT"): [f'"v=spf1 ip4:{case.ip} -all"'],
            ("@", "MX"): ["10 mx"], ("mx", "A"): ["127.0.30.25"],
            ("_dmarc", "TXT"): ['"v=DMARC1; p=none; rua=mailto:postmaster@{zone}"'],
            ("otp1._domainkey", "TXT"): [published]}}
        if case.edit:
            case.edit(zone)
        first[case.zone + "."] = zone_text(case.zone + ".", zone["records"])
        less = {key: value for key, value in zone["records"].items() if key not in case.lacking}
        second[case.zone + "."] = zone_text(case.zone + ".", less)
        if zone["ptr"]:
            reverse[(f"{case.number}.40.0", "PTR")] = [f"{zone['ptr']}.{case.zone}."]
    root = {("ns1.servers.test.", "A"): ["127.0.30.1"], ("ns2.servers.test.", "A"): ["127.0.30.2"]}
    google = {("@", "MX"): ["5 mx.google.com."]}
    shared = {
        ".": zone_text(".", root), "127.in-addr.arpa.": zone_text("127.in-addr.arpa.", reverse),
        "gmail.com.": zone_text("gmail.com.", google), "google.com.": zone_text("google.com.", {("mx", "A"): ["127.0.30.25"]}),
    }
    for which, zones in (("first", first), ("second", second)):
        zones.update(shared)
        for origin in list(zones):
            if origin != ".":
                zones["."] += f"{origin} NS ns1.servers.test.\n{origin} NS ns2.servers.test.\n" if which else ""
        with open(f"{work}/{which}.zones", "w") as index:
            for origin, text in zones.items():
                name = origin.rstrip(".") or "root"
                with open(f"{work}/{which}/{name}.zone", "w") as file:
                    file.write(text)
                index.write(f'zone "{origin}" {{ type primary; file "{work}/{which}/{name}.zone"; }};\n')
        shared["."] = zone_text(".", root)


HOSTS = {case.ip: case.host for case in CASES if case.host}


class Host(socketserver.StreamRequestHandler):
    """Plays the providers, and the mail host of every zone."""

    def say(self, text):
        self.wfile.write(text.encode() + b"\r\n")

    def handle(self):
        kind = HOSTS.get(self.client_address[0])
        if kind == "closed":
            return
        self.say("220 mx.google.com ESMTP ready at Thu, 26 Nov 2020 10:00:00 +0000" if kind == "clock" else "220 mx.google.com ESMTP")
        for line in self.rfile:
            verb = line.decode().strip()
            if verb.startswith("EHLO"):
                seen = "127.0.41.99" if kind == "nat" else self.client_address[0]
                name = "firewall.test" if kind == "another" else "mx.google.com"
                self.say(f"250-{name} at your service, [{seen}]")
                self.say({"no-starttls": "250-8BITMIME", "masked": "250-XXXXXXXA"}.get(kind, "250-STARTTLS").replace("XA", "XX"))
                self.say("250 SIZE 1000")
            elif verb.startswith("RCPT") and "bounce-refused" in CASES_BY_ZONE.get(verb.split("@")[-1].strip(">"), ""):
                self.say("550 5.1.1 no such user")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 ok")


CASES_BY_ZONE = {f"bounce.{case.zone}": case.name for case in CASES}


class App(http.server.BaseHTTPRequestHandler):
    """The app behind a webhook; `late` seconds behind the time."""
    late = 0

    def do_HEAD(self):
        self.send_response(405)
        self.end_headers()

    def date_time_string(self, timestamp=None):
        return super().date_time_string(time.time() - self.late)

    def log_message(self, *_):
        pass


class LateApp(App):
    late = 20


def apps(work):
    """Prints the ports of two web servers with TLS: one that is right, one whose clock is not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{work}/app.pem", f"{work}/app.key")
    servers = [http.server.ThreadingHTTPServer(("127.0.30.26", 0), handler) for handler in (App, LateApp)]
    for server in servers:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(*(server.server_address[1] for server in servers), flush=True)
    threading.Thread(target=servers[1].serve_forever, daemon=True).start()
    servers[0].serve_forever()


def hosts():
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    server = socketserver.ThreadingTCPServer(("127.0.30.25", 0), Host)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def configure(case, work, port, app_ports):
    settings = dict(part.split("=", 1) for part in case.config.format(zone=case.zone).split("\n") if part)
    hostname = settings.pop("hostname", f"relay.{case.zone}")
    senders = (case.senders or "*@{zone}").format(zone=case.zone)
    more = "".join(f'{name} = "{value}"\n' for name, value in settings.items())
    if case.authority:
        more += f'ca_file = "{work}/{case.authority}"\n'
    webhook = ""
    if case.webhook:
        url = case.webhook.format(tls=app_ports[0], late=app_ports[1])
        webhook = f'[[webhook]]\nurl = "{url}"\nsecret_file = "{work}/w.secret"\n'
    path = f"{work}/{case.zone}.toml"
    with open(path, "w") as file:
        file.write(f"""hostname = "{hostname}"
data_dir = "{work}/{case.zone}/data"
[[user]]
name = "shop"
senders = ["{senders}"]
[[listener]]
address = "127.0.40.{case.number}:0"
[http]
address = "off"
[resolver]
nameservers = ["{RESOLVER}:53"]
dnssec = false
[delivery]
port = {port}
allow_private_destinations = true
source_addresses = ["{case.ip}"]
{more}{webhook}[[dkim]]
domain = "{case.zone}"
selector = "otp1"
private_key = "{work}/{case.zone}/keys/{key_file(work, case)}"
""")
    os.chmod(path, 0o600)
    return path


def key_file(work, case):
    names = sorted(os.listdir(f"{work}/{case.zone}/keys"))
    return next(name for name in names if "ed25519" not in name and not name.endswith(".txt"))


def opinions(case, work, found):
    """What others make of the same records; a contradiction is a sentence."""
    import checkdmarc.dmarc
    import checkdmarc.spf
    import dkim
    import spf as pyspf

    wrong = []
    ours = {(finding["check"], finding["severity"]) for finding in found}
    spf_findings = [f for f in found if f["check"] == "spf" and f["severity"] == "error" and f["subject"] == case.zone]
    result = pyspf.check2(i=case.ip, s=f"a@{case.zone}", h=f"relay.{case.zone}")[0]
    if (result == "pass") == bool(spf_findings) and case.name != "spf-everybody":
        wrong.append(f"pyspf says {result}")
    theirs = checkdmarc.spf.check_spf(case.zone, nameservers=[RESOLVER])
    broken = case.name in ("spf-missing", "spf-twice", "spf-lookups", "spf-void", "spf-include")
    if theirs["valid"] == broken:
        wrong.append(f"checkdmarc says of SPF {theirs.get('error', 'valid')}")
    theirs = checkdmarc.dmarc.check_dmarc(case.zone, nameservers=[RESOLVER])
    is_bad = case.name in ("dmarc-missing", "dmarc-twice", "dmarc-odd-policy")
    if theirs["valid"] == is_bad:
        wrong.append(f"checkdmarc says of DMARC {theirs.get('error', 'valid')}")
    private = open(f"{work}/{case.zone}/keys/{key_file(work, case)}", "rb").read()
    message = f"From: a@{case.zone}\r\nTo: b@x.test\r\nSubject: x\r\n\r\nx\r\n".encode()

    def look_up(name, timeout=5):
        try:
            answer = dns.resolver.resolve(name.decode(), "TXT")
            return b"".join(list(answer)[0].strings)
        except Exception:
            return None

    signed = dkim.sign(message, b"otp1", case.zone.encode(), pkcs1(private)) + message
    try:
        holds = dkim.verify(signed, dnsfunc=look_up)
    except Exception:
        holds = False
    is_ours = ("dkim", "error") in ours and case.name not in ("dkim-one-server", "dkim-none", "dkim-testing")
    # Of two records a verifier takes whichever comes first (RFC 6376 section 3.6.2.2 leaves it open), so it has no opinion.
    if holds == is_ours and case.name != "dkim-twice":
        wrong.append(f"dkimpy says that the signature {'holds' if holds else 'does not hold'}")
    return wrong


def pkcs1(pem):
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(pem, None)
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def pasted(relay, work, path, case):
    """What `check --zone` prints, within a zone file: a sentence if named-checkzone does not take it."""
    printed = subprocess.run([relay, "check", "--zone", "-c", path], capture_output=True, text=True)
    with open(f"{work}/pasted.zone", "w") as file:
        file.write(f"$TTL 60\n@ SOA ns1 admin 1 3600 600 86400 5\n@ NS ns1\nns1 A 127.0.30.1\n@ MX 10 ns1\n{printed.stdout}")
    command = ["named-checkzone", "-i", "local", case.zone, f"{work}/pasted.zone"]
    taken = subprocess.run(command, capture_output=True, text=True)
    if printed.returncode or "_domainkey" not in printed.stdout or taken.returncode or "ignoring" in taken.stdout:
        return f"what is printed to be pasted is not taken: {taken.stdout[:300]} {printed.stderr[:200]}"
    return None


def look(relay, work, port, *app_ports):
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [RESOLVER]
    dns.resolver.default_resolver = resolver
    failed = 0
    for case in CASES:
        path, since = configure(case, work, port, app_ports), time.monotonic()
        done = subprocess.run([relay, "check", "--json", "-c", path], capture_output=True, text=True)
        took = time.monotonic() - since
        report = json.loads(done.stdout)
        found = report["findings"]
        # What depends on this machine, and what is only good to know.
        of_zone = [f for f in found if f["severity"] != "note" and f["check"] not in ("data-folder", "limits", "configuration")]
        seen = [(f["check"], f["severity"]) for f in of_zone]
        expected = [case.finds] if case.finds else []
        wrong = opinions(case, work, found)
        if case.name in ("sound", "spf-missing", "dkim-missing", "dmarc-missing"):
            wrong += [told for told in [pasted(relay, work, path, case)] if told]
        is_good = seen == expected and not wrong and took < 5.5
        failed += not is_good
        print(f"{'ok' if is_good else 'WRONG'}: {case.name}: {seen} in {took:.1f} s" + (f"; {wrong}" if wrong else ""))
        if not is_good:
            for finding in of_zone:
                print("   ", json.dumps(finding)[:400])
            print("   ", done.stderr[:500])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    command, arguments = sys.argv[1], sys.argv[2:]
    {"prepare": prepare, "hosts": hosts, "apps": apps, "look": look, "count": lambda: print(len(CASES))}[command](*arguments)
