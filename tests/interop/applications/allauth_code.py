"""django-allauth: login by a code that is mailed."""

import os
import sys
import types

import django
from django.conf import settings

urls = types.ModuleType("urls")
sys.modules["urls"] = urls
settings.configure(
    SECRET_KEY="x" * 50,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="urls",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "allauth",
        "allauth.account",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "allauth.account.middleware.AccountMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
        }
    ],
    AUTHENTICATION_BACKENDS=["allauth.account.auth_backends.AuthenticationBackend"],
    ACCOUNT_LOGIN_BY_CODE_ENABLED=True,
    ACCOUNT_LOGIN_METHODS={"email"},
    ACCOUNT_SIGNUP_FIELDS=["email*", "password1*"],
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

from django.urls import include, path

urls.urlpatterns = [path("accounts/", include("allauth.urls"))]

from allauth.account.models import EmailAddress
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

call_command("migrate", verbosity=0)
user = User.objects.create_user("alice", os.environ["RECIPIENT"], "a password")
EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
answer = Client().post("/accounts/login/code/", {"email": user.email})
assert answer.status_code == 302, answer.status_code
