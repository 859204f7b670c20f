"""Secrets inside texts: a table of what is hidden, a table of what stays readable, and what it costs."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dlq_app import conf
from dlq_app.domain import text_secrets
from dlq_app.domain.masking import MASK, MaskingPolicy, folded, mask, mask_json, mask_text

S = "hunter2x"

#: Texts in which ``hunter2x`` is a secret.
HIDDEN = {
    "name and value in JSON": f'HandlerError: {{"name":"password","value":"{S}"}}',
    "name and value in escaped JSON": f'body {{\\"name\\": \\"api_key\\", \\"value\\": \\"{S}\\"}}',
    "pair of headers": f"sent [('Accept', 'a'), ('Authorization', '{S}')]",
    "pair of headers in bytes": f"sent [(b'x-api-key', b'{S}')]",
    # names and separators
    "name=value": f"login failed: password={S} for ann",
    "spaced": f"password   =   {S}",
    "aligned": f"password{' ' * 20}: {S}",
    "tab": f"password:\t{S}",
    "arrow": f"password => {S}",
    "php": f'["password"]=> string(8) "{S}"',
    "assigned": f"password := {S}",
    "compared": f"if password == '{S}'",
    "is": f"the password is {S}",
    "is, quoted": f'password is "{S} and more"',
    "was": f"password was: {S}",
    "index": f"params[password]={S}",
    "key of a dict": f"settings['password'] = '{S}'",
    "two words": f"private key: {S}",
    "three words": f"the api key is {S}",
    "full width": f"password\uff1d{S}",
    "look-alike": f"p\u0430ssword={S}",
    "zero width": f"pass\u200bword={S}",
    "long s": f"pa\u017f\u017fword={S}",
    "environment": f"DB_PASSWORD={S} DEBUG=1",
    "dotted": f"spring.datasource.password={S}",
    "exact": f"pin={S} for the card",
    "exact, colon": f"cvv: {S}",
    "exact, dotted": f"card.pin={S}",
    "PWD": f"Driver={{ODBC Driver 18}};Server=db;UID=sa;PWD={S};Encrypt=yes",
    "Pwd": f"Server=db;Uid=sa;Pwd={S};",
    "PWD in braces": f"UID=sa;PWD={{{S};more{S}}};Encrypt=yes",
    "doubled quotes": f"password='it''s {S}'",
    "flag": f"run: mysql --password {S} -h db",
    "flag with =": f"mysql --password={S}",
    "arrow of signs": f"password -> {S}",
    "arrow, quoted": f'"password" -> "{S} x"',
    "arrow of one sign": f"api key \u2192 {S}",
    "flag of PowerShell": f"Connect-Db -Password {S} -Force",
    "secret key": f"the secret key: {S}",
    "invalid token": f"Invalid token: {S}",
    "invalid token, quoted": f"invalid access token: '{S}'",
    "invalid token with a scheme": f"Invalid authorization: Custom {S}",
    "query, escaped": f"/login?next=%2Fa%3Fpassword%3D{S}%26b%3D1",
    "query, escaped twice": f"q=password%253D{S}",
    "words of a query": f"q=password+is+{S}",
    "words of a query, escaped": f"q=the%20token%20is%20{S}",
    "JSON, escaped": f"%7B%22password%22%3A%22{S}%22%7D",
    # by their place
    "curl": f"curl -u ann:{S} https://example.org",
    "curl, joined": f"curl -sSuann:{S} https://example.org",
    "curl, long": f"curl --user=ann:{S} https://example.org",
    "curl, quoted": f"curl -su 'ann:x {S}' https://example.org",
    "curl, proxy": f'curl --proxy-user "ann:{S}"',
    "curl, no user": f"curl -u :{S} https://example.org",
    "curl, arguments": f"['curl', '-u', 'ann:{S}']",
    "mysql": f"mysqldump -uroot -p{S} shop",
    "sshpass": f"sshpass -p {S} ssh host",
    "redis-cli": f"redis-cli -h cache -a {S} ping",
    "ldap": f"ldapsearch -x -D cn=a -w {S}",
    "docker": f"docker login -u ann -p {S} registry.example.org",
    "netrc": f"machine example.org login ann password {S}",
    "netrc over lines": f"machine example.org\n  login ann\n  password {S}\n",
    "netrc with an account": f"default login ann account a password {S}",
    "SQL": f"CREATE USER ann IDENTIFIED BY '{S}'",
    "SQL of PostgreSQL": f"ALTER ROLE ann WITH LOGIN PASSWORD '{S}'",
    "redis.conf": f"requirepass {S}",
    "element": f"<user>ann</user><password>{S}</password>",
    "element with namespace": f'<wsse:Password Type="text">{S}</wsse:Password>',
    "element with children": f"<credentials><user>a</user><value>{S}</value></credentials>",
    "attribute": f'<login password="{S}"/>',
    # quotes
    "JSON": f'body {{"password": "{S} and more"}}',
    "JSON in a string": f'body "{{\\"password\\":\\"{S} and more\\"}}"',
    "JSON in a string in a string": f'"\\"{{\\\\\\"password\\\\\\":\\\\\\"{S} x\\\\\\"}}\\""',
    "quote inside": f'"password": "a\\"b {S}"',
    "quote inside, escaped": f'\\"password\\":\\"a\\\\\\"b {S}\\"',
    "object": f'{{"credentials": {{"user": "ann", "value": "{S}"}}, "n": 1',
    "object of Python": f"failed for {{'credentials': {{'value': '{S}'}}}}",
    "list": f"tokens: ['a', '{S}']",
    "cut off object": f'... "credentials": {{"user": "ann", "value": "{S}',
    "cut off string": f'password="several words {S}',
    "bytes": f"password=b'{S}'",
    "wrapper": f"User(name='ann', password=SecretStr('{S}'))",
    "apostrophe inside": f"password=it's{S}",
    "bracket inside": f"password=a){S} next",
    "comma inside": f"password=a,{S}",
    "longer than 4 000": 'password="' + "x" * 5000 + S + '"',
    "longer, unquoted": "password=" + "x" * 5000 + S,
    "over lines": f'secret="line one\n{S}"',
    # headers
    "bearer": f"Authorization: Bearer {S}",
    "basic": f"Authorization: Basic {S}",
    "any scheme": f"Authorization: Custom {S}",
    "digest": f'Authorization: Digest username="ann", realm="x", response="{S}"',
    "AWS": f"Authorization: AWS4-HMAC-SHA256 Credential=A/x, SignedHeaders=host, Signature={S}",
    "headers of a dict": f"{{'Host': 'x', 'Authorization': 'Bearer {S}'}}",
    "bearer alone": f"sent Bearer {S}",
    "basic alone": "sent Basic ZHVudGVyOmh1bnRlcjJ4 hunter2x"[:33],
    "cookie": f"Cookie: sid={S}; theme=dark",
    "second cookie": f"Cookie: theme=dark; sid={S}",
    "cookie in a dict": f"{{'Host': 'x', 'Cookie': 'theme=dark; sid={S}'}}",
    "set-cookie": f"Set-Cookie: sid={S}; HttpOnly; Path=/",
    "header in escaped lines": f"GET / HTTP/1.1\\r\\nX-Api-Key: {S}\\r\\n",
    "exact behind an escaped line end": f"a\\npin={S}",
    # URLs
    "postgres": f"postgres://ann:{S}@db:5432/x",
    "postgresql+psycopg": f"postgresql+psycopg://ann:{S}@db/x",
    "redis": f"redis://:{S}@cache:6379/0",
    "amqp": f"amqp://guest:{S}@mq//",
    "mongodb+srv": f"mongodb+srv://ann:{S}@a.example.org,b.example.org/x?w=1",
    "https": f"https://ann:{S}@example.org/a",
    "token as user": f"https://{S}@example.org/a",
    "token as user, empty password": f"https://{S}:@example.org/a",
    "@ inside": f"postgres://ann:a@{S}@db/x",
    "/ inside": f"postgres://ann:a/{S}@db/x",
    "digits and / inside": f"postgres://ann:12/{S}@db/x",
    "# inside": f"postgres://ann:a#{S}@db/x",
    "escaped slashes": f'"amqp:\\/\\/guest:{S}@mq\\/"',
    "cut off in the user-info": f"could not reach postgres://ann:{S}",
    "second URL": f"amqp://a:b@h1,amqp://c:{S}@h2",
    "query": f"https://example.org/?a=1&access_token={S}&b=2",
    "Azure SAS": f"https://x.blob.core.windows.net/c/f?sv=2024&se=2026&sr=b&sig={S}%3D",
    "AWS query": f"https://x/?X-Amz-Signature={S}&X-Amz-Date=1",
    "form": f"user=ann&password={S}&remember=1",
    "Slack": f"https://hooks.slack.com/services/T000/B000/{S}",
    "Slack, escaped": f"https:\\/\\/hooks.slack.com\\/services\\/T000\\/B000\\/{S}",
    "Discord": f"https://discord.com/api/webhooks/123/{S}",
    "Telegram": f"https://api.telegram.org/bot123:{S}/sendMessage",
    # shapes
    "private key": f"-----BEGIN RSA PRIVATE KEY-----\nMII{S}\n-----END RSA PRIVATE KEY-----",
    "private key, cut off": f"-----BEGIN PRIVATE KEY-----\nMII{S}\nabc",
    "private key, escaped": f"-----BEGIN OPENSSH PRIVATE KEY-----\\nb3{S}\\n-----END OPENSSH PRIVATE KEY-----\\n",
    "PGP": f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQ{S}\n-----END PGP PRIVATE KEY BLOCK-----",
    "JWT": f"got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{S}",
    "GitHub": f"push with ghp_{'a1' * 10}{S}",
    "Stripe": f"key sk_live_{'a1' * 10}{S}",
}

#: Texts that say something and hide nothing.
READABLE = [
    "the password is too short",
    "the token is expired",
    "Token was not found.",
    "password is required",
    "the signature is invalid: try again",
    "auth is disabled",
    "PIN is locked",
    "no secret for order 55",
    "secretary of order: ann",
    "the company: ACME, shipping=fast, spin: 3, author=ann, passenger: bob",
    "Gateway did not answer: order 5511 refused after 3 tries",
    'File "/srv/app/tokens.py", line 3, in check\n    raise PasswordTooShort()',
    "ValueError: invalid literal for int() with base 10: 'x'",
    "std::token::Parser::next failed",
    "https://example.org:8443/a/b?x=1#here",
    "http://localhost:8080",
    "http://[::1]:8080/a@b",
    "amqp://mq:5672/vhost",
    "mongodb://h1:27017,h2:27017/x?replicaSet=rs0",
    "redis://cache:6379.",
    "https://registry.npmjs.org/@scope/pkg",
    "ssh://git@example.org/repo.git",
    "mail to ann@example.org: bounced",
    "basic authentication required",
    "Bearer authentication failed",
    "sent basic information",
    "token=null, password=None, secret=''",
    '{"token": null, "password": "", "orderId": 7}',
    "-----BEGIN CERTIFICATE-----\nMIIabc\n-----END CERTIFICATE-----",
    "eyJust a word. And more",
    "12:30:59 worker-1: started",
    "--token is required",
    "usage: run --password --verbose",
    "Invalid token: signature verification failed",
    "Invalid token: \u2026",
    "Invalid CSRF token: expired",
    "invalid token: 'foo'",
    "Invalid credentials: user ann is locked",
    "Invalid password: too short",
    "Unexpected token < in JSON at position 0",
    "Unexpected token '<', \"<!DOCTYPE \"... is not valid JSON",
    "SyntaxError: Unexpected token: punc (,)",
    "Unexpected token: <",
    "token bucket is empty",
    "the token bucket is full",
    "the secret santa: ann",
    "user->password->hash is null",
    "curl: (7) failed to connect to example.org:443",
    "curl -X POST -H 'Accept: a' https://example.org:8443/a",
    "please login and change password soon",
    "the login form lost password and name",
    "mysql -u root -P 3306 shop",
    "100% token%20count",
    "credentials: {}",
    "a -> b, x => y, n == 3",
]


@pytest.fixture
def policy() -> MaskingPolicy:
    return conf.masking_policy()


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN.keys())
def test_what_is_hidden_in_a_text(text: str, policy: MaskingPolicy) -> None:
    masked = mask_text(text, policy)

    assert S not in masked
    assert "ZHVudGVy" not in masked
    assert MASK in masked
    assert mask_text(masked, policy) == masked


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN.keys())
def test_it_is_hidden_wherever_the_text_stands(text: str, policy: MaskingPolicy) -> None:
    """In a string of a payload, as a text in a text, in the middle of a log."""
    for value in ({"note": text}, [[text]], {"a": {"b": json.dumps({"note": text})}}):
        assert S not in json.dumps(mask(value, policy))
        assert S not in mask_json(json.dumps(value), policy)
    assert S not in mask_text(f"Error in job 7:\n  {text}", policy)
    assert S not in mask_text(json.dumps(f"Error: {text}"), policy)


@pytest.mark.parametrize("text", READABLE)
def test_what_stays_readable(text: str, policy: MaskingPolicy) -> None:
    assert mask_text(text, policy) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"login: password={S}, user=ann (eu)", f"login: password={MASK}, user=ann (eu)"),
        (f"call(password={S}) failed", f"call(password={MASK}) failed"),
        (f"postgres://ann:{S}@db:5432/x is down", f"postgres://ann:{MASK}@db:5432/x is down"),
        (f"https://ann:{S}@example.org/a?b=1", f"https://{MASK}@example.org/a?b=1"),
        (f"?token={S}&next=/home", f"?token={MASK}&next=/home"),
        (f"Server=db;Pwd={S};Encrypt=yes", f"Server=db;Pwd={MASK};Encrypt=yes"),
        (f"Cookie: a={S}; b=2\nHost: x", f"Cookie: {MASK}\nHost: x"),
        (f'{{\\"pin\\":\\"{S}\\",\\"n\\":1}}', f'{{\\"pin\\":\\"{MASK}\\",\\"n\\":1}}'),
        (f'x "password":"{S}","n":1', f'x "password":"{MASK}","n":1'),
        (f"{{'Cookie': 'a={S}', 'Host': 'x'}}", f"{{'Cookie': '{MASK}', 'Host': 'x'}}"),
        (f"<pin>{S}</pin><n>1</n>", f"<pin>{MASK}</pin><n>1</n>"),
        (f'{{"a": "password={S}", "n": 1.10}}', f'{{"a": "password={MASK}", "n": 1.10}}'),
    ],
)
def test_what_stands_beside_a_secret_stays(text: str, shown: str, policy: MaskingPolicy) -> None:
    assert mask_text(text, policy) == shown


@pytest.mark.parametrize(
    "value",
    [
        {"name": "password", "value": S},
        {"Name": "X-Api-Key", "Value": {"a": S}},
        {"headers": [["Authorization", S], ["Host", "x"]]},
        {"p\u0430ssword": S},
        {"\uff50\uff49\uff4e": S},
        {"PASS\u0399ON": "x", "\u0440in": S},
    ],
)
def test_names_beside_their_values_and_names_that_only_look_alike(value: object, policy: MaskingPolicy) -> None:
    text = json.dumps(value)

    assert S not in json.dumps(mask(value, policy))
    assert S not in mask_json(text, policy)
    assert S not in mask_json(text.replace('": ', '":  ').replace("{", '{"n":1.10,"n":2,', 1), policy)


def test_folding_keeps_latin_names() -> None:
    assert [folded(name) for name in ("\u017fecret", "\u0421VV", "p\u00efn", "straße")] == [
        "secret",
        "cvv",
        "pin",
        "strasse",
    ]


_PIECES = some.sampled_from(
    [
        *re.findall(r"\S+", "password pin private key is => = : { } [ ( ) , ; & x 7 :// @ / - -- < > </ token Cookie"),
        *('"', "\\", "'", " ", "\n", "-----BEGIN A-----", "-----END", "Bearer ", "Authorization", "\\u0070"),
        *(MASK, "\u200b", "\u0430", "eyJabcdefg.", " -> ", "%3D", "%22", "curl -u ", "a:", "Invalid ", ": ", "+is+"),
        *("login a ", "mysql -p", "IDENTIFIED BY ", "secret key", "\u2192", " -password ", "a1B2"),
    ]
)


@given(some.lists(_PIECES, max_size=14).map("".join))
def test_masking_a_text_twice_is_masking_it_once(text: str) -> None:
    policy = conf.masking_policy()

    once = mask_text(text, policy)

    assert mask_text(once, policy) == once
    assert policy.may_show(text) or text_secrets.hide(text, policy.is_secret) == text


def test_hostile_text_costs_no_time(policy: MaskingPolicy) -> None:
    """CPU seconds of this thread for 16 KiB each; what is quadratic here would take minutes."""
    began = time.thread_time()
    for piece in (
        "password", "token=", "a=", "api key ", 'secret="', "token: { ", "token: {'", "token: ({[", "://", "://a:b/",
        "://a:1/", "://a,", "://@", "postgres://a:1/", "<token>", "<token><", "<a ", "--token ", "eyJ", "eyJabcdefgh.",
        "\\", '\\"', '\\"token\\":\\"', 'authorization: a b, c="', "cookie: a;", "cookie=a; ", "Bearer ", "discord/",
        "hooks.slack.com/services/", "-----BEGIN A-----", "password is ", "pin\u200b", "\u0430", "token,", "token=a,",
        "token=a,b", "--", '{"a":"', "xox", "[[", "password:'\\", "password=it'", ":\\/\\/",
        "password=SecretStr('", "private ", ",-.", "curl ", "curl -u ", "curl -uuuu", "-u a", "mysql ", "mysql -p",
        "login ",
        "login a ", "login a password ", "identified by ", "password '", "invalid token: ", "invalid a ", "%3D", "%25",
        "password%22", "token+is+", " -> ", "password ->", "redis-cli ", "sshpass", "ldapsearch ",
    ):  # fmt: skip
        mask_text(piece * (16_384 // len(piece)), policy)
        mask_text(f"token={piece * (16_384 // len(piece))}", policy)
        mask_text(f"://a:{piece * (16_384 // len(piece))}!", policy)

    assert time.thread_time() - began < 10
