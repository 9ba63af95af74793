"""Django's own password reset: its view, form and templates, its SMTP backend."""

import os

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="x" * 50,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="django.contrib.auth.urls",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.admin"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    EMAIL_BACKEND="django.core.mail.backends.smtp.EmailBackend",
    EMAIL_HOST=os.environ["RELAY_HOST"],
    EMAIL_PORT=int(os.environ["RELAY_PORT"]),
    EMAIL_HOST_USER=os.environ["RELAY_USER"],
    EMAIL_HOST_PASSWORD=os.environ["RELAY_PASSWORD"],
    EMAIL_USE_TLS=True,
    EMAIL_TIMEOUT=10,
    DEFAULT_FROM_EMAIL=os.environ["SENDER"],
)
django.setup()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

call_command("migrate", verbosity=0)
User.objects.create_user("alice", os.environ["RECIPIENT"], "a password")
answer = Client().post("/password_reset/", {"email": os.environ["RECIPIENT"]})
assert answer.status_code == 302, answer.status_code
