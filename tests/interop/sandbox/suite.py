"""Twenty tests of an app that sends codes, run side by side against `otp-relay demo`, each with addresses of its own.

usage: suite.py SMTP_ADDRESS HTTP_ADDRESS [RUNS]
"""

import json
import smtplib
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage

SMTP, HTTP = sys.argv[1], "http://" + sys.argv[2]
RUNS = int(sys.argv[3]) if len(sys.argv) > 3 else 1


def ask(method, path, body=None, accept="application/json"):
    headers = {"Authorization": "Bearer any", "Content-Type": "application/json", "Accept": accept}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(HTTP + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=90) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def address(words="user"):
    return f"{words}.{uuid.uuid4().hex}@example.test"


def code(to, **query):
    query = urllib.parse.urlencode({"to": to, "wait": "60s", **query})
    status, body = ask("GET", "/sandbox/code?" + query)
    assert status == 200, (to, status, body)
    return json.loads(body)


def mail(to, text="Your code is 481516"):
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "otp@shop.example", to, "Sign in"
    message.set_content(text)
    return message


def send(to, login=("any", "thing"), **more):
    host, port = SMTP.split(":")
    with smtplib.SMTP(host, int(port), timeout=60) as smtp:
        if login:
            smtp.login(*login)
        smtp.send_message(mail(to, **more))


def post(to, **more):
    body = {"from": "otp@shop.example", "to": to, "otp": {"code": "481516", "app": "Shop"}, **more}
    return ask("POST", "/v1/messages", body)


def ended(to, **more):
    """The entry of a message, once it has ended."""
    status, body = post(to, wait="delivered", **more)
    assert status == 200, (to, status, body)
    return json.loads(body)["entries"][0]


def test_code_by_smtp():
    to = address()
    send(to)
    answer = code(to)
    assert answer["code"] == "481516" and answer["signed"] and answer["attempts"] == 1, answer


def test_code_by_smtp_without_login():
    to = address()
    send(to, login=None)
    assert code(to)["code"] == "481516"


def test_code_by_http():
    to = address()
    assert post(to)[0] == 202
    assert code(to)["subject"] == "481516 is your code for Shop"


def test_state_is_known_with_the_code():
    to = address()
    identity = json.loads(post(to)[1])["id"]
    assert code(to)["message"] == identity
    message = json.loads(ask("GET", "/v1/messages/" + identity)[1])
    assert message["entries"][0]["state"] == "delivered", message


def test_link():
    to = address()
    send(to, text="Sign in: https://shop.example/magic?token=abcdef0123456789")
    assert code(to)["link"] == "https://shop.example/magic?token=abcdef0123456789"


def test_plain_text():
    to = address()
    assert post(to)[0] == 202
    assert ask("GET", f"/sandbox/code?to={to}&wait=60s", accept="text/plain") == (200, "481516")


def test_two_groups_of_digits():
    to = address()
    send(to, text="Ihr Code: 123 456")
    assert code(to)["code"] == "123456"


def test_second_code():
    to = address()
    send(to)
    first = code(to)
    send(to, text="Your code is 918273")
    assert code(to, after=first["id"])["code"] == "918273"


def test_tag():
    to = address()
    assert post(to, tag="signup")[0] == 202
    assert code(to, tag="signup")["code"] == "481516"


def test_greylisted():
    to = address("greylisted-5s")
    send(to)
    assert code(to)["attempts"] == 2


def test_busy():
    to = address("busy-1")
    send(to)
    assert code(to)["attempts"] == 2


def test_clear_text():
    to = address("notls")
    send(to)
    assert code(to)["code"] == "481516"


def test_bad_certificate():
    to = address("badtls")
    send(to)
    assert code(to)["code"] == "481516"


def test_hidden():
    to = address("hidden")
    assert ended(to)["state"] == "delivered"
    status, body = ask("GET", f"/sandbox/code?to={to}")
    assert status == 404 and json.loads(body)["arrived"][0]["hidden"], body


def test_unknown():
    entry = ended(address("unknown"))
    assert entry["state"] == "failed" and entry["cause"] == "bad_mailbox", entry


def test_spam():
    entry = ended(address("spam"))
    assert entry["state"] == "failed" and entry["cause"] == "content_rejected", entry


def test_full():
    entry = ended(address("full"), life=40)
    # On a machine that is busy, its four seconds may pass before the second try.
    assert entry["state"] in ("failed", "expired"), entry


def test_no_such_domain():
    try:
        send(address("nodomain"))
    except smtplib.SMTPRecipientsRefused as error:
        assert next(iter(error.recipients.values()))[0] == 550, error
    else:
        raise AssertionError("taken")


def test_suppressed_and_budget():
    assert post(address("suppressed"))[0] == 422
    assert post(address("budget"))[0] == 429


def test_messages_are_removed():
    to = address()
    send(to)
    code(to)
    assert json.loads(ask("DELETE", "/sandbox/messages?to=" + to)[1]) == {"removed": 1}
    assert ask("GET", "/sandbox/code?to=" + to)[0] == 404


def main():
    tests = [test for name, test in globals().items() if name.startswith("test_")]
    assert len(tests) == 20, len(tests)
    failures = 0
    with ThreadPoolExecutor(len(tests)) as threads:
        for number in range(RUNS):
            for test, result in [(test, threads.submit(test)) for test in tests]:
                error = result.exception()
                if error:
                    failures += 1
                    print(f"run {number + 1}: {test.__name__}: {type(error).__name__}: {error}")
    print(f"{RUNS * len(tests) - failures} passed, {failures} failed")
    return 1 if failures else 0


sys.exit(main())
