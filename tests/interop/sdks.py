"""The Python libraries of three mail APIs against the relay's doors. Prints one line for each thing that was as expected."""

import os
import re

import django
from django.conf import settings

URL, TOKEN = os.environ["SDK_URL"], os.environ["SDK_TOKEN"]
FROM, TO, GONE = "Shop <otp@app.test>", "alice@example.test", "gone@example.test"
UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


def ok(what):
    print("ok", what)


def error_of(call):
    try:
        call()
    except Exception as error:  # whatever class the library has for it
        return error
    raise AssertionError("an error was expected")


def with_resend():
    import resend

    name = "resend of PyPI"
    resend.api_key, resend.api_url = TOKEN, URL

    def mail(subject, **more):
        return {"from": FROM, "to": [TO], "subject": subject, "html": "<b>h</b>", "headers": {"X-Ref": "7"},
                "attachments": [{"filename": "a.txt", "content": list(b"hi\n")}], **more}

    sent = resend.Emails.send(mail(f"{name}, once"))
    assert UUID.match(sent["id"]), sent
    assert resend.Emails.get(sent["id"])["object"] == "email"
    ok(f"{name} sends, and reads how it stands")
    options = {"idempotency_key": "python-1"}
    ids = {resend.Emails.send(mail(f"{name}, repeated"), options)["id"] for _ in range(2)}
    assert len(ids) == 1, ids
    ok(f"{name} repeats without a second mail")
    error = error_of(lambda: resend.Emails.send(mail("x", to=GONE)))
    assert (error.code, error.error_type) == (422, "validation_error"), (error.code, error)
    assert GONE in str(error)
    error = error_of(lambda: resend.Emails.send({"from": FROM, "to": TO, "html": "x"}))
    assert error.error_type == "missing_required_field", error.error_type
    batch = resend.Batch.send([{k: v for k, v in mail(f"{name}, batch").items() if k != "attachments"}] * 2)
    assert len(batch["data"]) == 2, batch
    resend.api_key = "re_wrong"
    assert error_of(lambda: resend.Emails.send(mail("x"))).error_type == "invalid_api_key"
    ok(f"{name} tells its errors by name, and sends batches")


def with_postmarker():
    from postmarker.core import PostmarkClient
    from postmarker.exceptions import ClientError

    name = "postmarker"
    client = PostmarkClient(server_token=TOKEN, root_api_url=f"{URL}/")

    def send(subject, **more):
        return client.emails.send(**{"From": FROM, "To": TO, "Subject": subject, "TextBody": "t", **more})

    assert UUID.match(send(f"{name}, once", Tag="sign up")["MessageID"])
    ok(f"{name} sends")
    key = {"X-OTP-Idempotency-Key": "python-2"}
    assert len({send(f"{name}, repeated", Headers=key)["MessageID"] for _ in range(2)}) == 1
    ok(f"{name} repeats without a second mail")
    error = error_of(lambda: send("x", To=GONE))
    assert isinstance(error, ClientError) and "406" in str(error) and GONE in str(error), error
    wrong = PostmarkClient(server_token="wrong", root_api_url=f"{URL}/")
    error = error_of(lambda: wrong.emails.send(From=FROM, To=TO, Subject="x", TextBody="t"))
    assert "[10]" in str(error), error
    batch = client.emails.send_batch(*[{"From": FROM, "To": to, "Subject": f"{name}, batch", "TextBody": "t"} for to in (TO, GONE)])
    assert [one["ErrorCode"] for one in batch] == [0, 406], batch
    ok(f"{name} tells its errors by code, and sends batches")


def with_sendgrid():
    import sendgrid
    from sendgrid.helpers.mail import Attachment, Header, Mail

    name = "sendgrid of PyPI"
    client = sendgrid.SendGridAPIClient(TOKEN, host=URL)

    def mail(subject, to=TO, sender="otp@app.test"):
        made = Mail(from_email=(sender, "Shop, Inc."), to_emails=to, subject=subject, plain_text_content="t", html_content="<b>h</b>")
        made.attachment = Attachment("aGkK", "a.txt", "text/plain", "attachment")
        return made

    answer = client.send(mail(f"{name}, once"))
    assert answer.status_code == 202 and UUID.match(answer.headers["X-Message-Id"]), answer.headers
    ok(f"{name} sends")
    repeated = mail(f"{name}, repeated")
    repeated.add_header(Header("X-OTP-Idempotency-Key", "python-3"))
    assert len({client.send(repeated).headers["X-Message-Id"] for _ in range(2)}) == 1
    ok(f"{name} repeats without a second mail")
    error = error_of(lambda: client.send(mail("x", to=GONE)))
    assert error.status_code == 400 and GONE in str(error.to_dict), error.to_dict
    assert error_of(lambda: client.send(mail("x", sender="otp@other.test"))).status_code == 403
    wrong = sendgrid.SendGridAPIClient("SG.wrong", host=URL)
    assert error_of(lambda: wrong.send(mail("x"))).status_code == 401
    ok(f"{name} tells its errors by status")


def with_anymail():
    settings.configure(
        INSTALLED_APPS=["anymail"],
        ANYMAIL={
            "RESEND_API_KEY": TOKEN, "RESEND_API_URL": f"{URL}/",
            "POSTMARK_SERVER_TOKEN": TOKEN, "POSTMARK_API_URL": f"{URL}/",
            "SENDGRID_API_KEY": TOKEN, "SENDGRID_API_URL": f"{URL}/v3/",
        },
    )
    django.setup()
    from anymail.exceptions import AnymailAPIError, AnymailRecipientsRefused
    from django.core.mail import EmailMultiAlternatives, get_connection

    for backend in ("resend", "postmark", "sendgrid"):
        name = f"anymail, {backend}"
        connection = get_connection(f"anymail.backends.{backend}.EmailBackend")

        def mail(subject, to=TO, headers=None):
            made = EmailMultiAlternatives(subject, "t", FROM, [to], cc=["Carl <carl@example.test>"], reply_to=["help@app.test"],
                                          headers=headers, connection=connection)
            made.attach_alternative("<b>h</b>", "text/html")
            made.attach("a.csv", "a,b\n", "text/csv")
            made.tags = ["sign up"]
            return made

        once = mail(f"{name}, once")
        assert once.send() == 1
        assert once.anymail_status.status == {"queued"} or once.anymail_status.status == {"sent"}, once.anymail_status
        ok(f"{name} sends")
        ids = set()
        for _ in range(2):
            repeated = mail(f"{name}, repeated", headers={"X-OTP-Idempotency-Key": f"anymail-{backend}"})
            repeated.send()
            ids.add(str(repeated.anymail_status.esp_response.headers.get("X-Message-Id")
                        or repeated.anymail_status.message_id))
        assert len(ids) == 1, ids
        ok(f"{name} repeats without a second mail")
        refused = mail("x", to=GONE)
        refused.cc = []
        error = error_of(refused.send)
        assert isinstance(error, (AnymailAPIError, AnymailRecipientsRefused)), error
        ok(f"{name} tells that a recipient is refused: {type(error).__name__}")


with_resend()
with_postmarker()
with_sendgrid()
with_anymail()
