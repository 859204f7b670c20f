"""Find and hide secrets inside texts: by the name before them, by the URL around them, by their own shape. Pure.

Each pass reads the text once, from left to right, and continues behind what it hid: the cost is linear in the length of
the text. Hiding a text that was hidden before changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MASK = "•••"

#: Zero-width characters, which nobody sees inside a name.
_UNSEEN = "\u00ad\u200b-\u200f\u2060-\u2064\ufeff"
_W = rf"[\w\-{_UNSEEN}]"
#: Spaces between a name, its separator and the value.
_GAP = r"[ \t]{0,60}+"
_IS = r"(?:is|was)(?![\w-])[ \t]{0,3}+:?"
#: Written in the query of a URL, however often escaped.
_CODED_QUOTE, _CODED_IS, _CODED_BLANK = "%(?:25){0,5}(?:2[27]|5[BD])", "%(?:25){0,5}3[AD]", r"(?:\+|%(?:25){0,5}20)"
_ARROW = r"(?:(?<=[ \t\"'`])-{1,2}>(?=[ \t\"'`])|[\u2192\u21d2])"
#: ``name=value``, ``name: value``, ``"name": "value"``, ``\"name\": …``, ``[name] => value``, ``name -> value``,
#: ``name%3Dvalue``, ``name is value``.
_NAMED = re.compile(
    rf"(?<!{_W})({_W}++)((?:[\"'`\\\])}}]|{_CODED_QUOTE}){{0,20}}{_GAP}"
    rf"(?:=>|:=|={{1,3}}|[:\uff1a\uff1d](?!:|//)|{_ARROW}|{_CODED_IS}|{_CODED_BLANK}(?:is|was){_CODED_BLANK}|{_IS})"
    rf"{_GAP})",
    re.I,
)
#: ``<name>value</name>``, ``--name value`` and ``-Name value``.
_ELEMENT = re.compile(rf"<((?:{_W}{{1,60}}:)?({_W}{{1,100}}))(?:\s[^<>]{{0,400}})?>")
_FLAG = re.compile(rf"(?<!{_W})-({_W}++)[ \t]++(?![-=])")
#: ``"name": "password", "value": …`` and ``("Authorization", …)``: JSON, or what Python writes, within another text.
_Q = r"\\{0,15}[\"']"
_NAMING_FIELD = "name|key|field|header|param|parameter|variable|attribute|property"
_FIELD = re.compile(
    rf"{_Q}(?:{_NAMING_FIELD}){_Q}\s{{0,20}}(?::|=>)\s{{0,20}}{_Q}({_W}{{1,100}}){_Q}\s{{0,20}},\s{{0,20}}"
    rf"{_Q}val(?:ue)?{_Q}\s{{0,20}}(?::|=>)\s{{0,20}}",
    re.I,
)
_PAIR = re.compile(
    rf"[\[(]\s{{0,20}}b?{_Q}({_W}{{1,100}}){_Q}\s{{0,20}},\s{{0,20}}(?=b?{_Q}[^\"']{{1,5000}}[\"']\s{{0,20}}[\])])"
)
_WORD_BEFORE = re.compile(rf"({_W}+)[ ]\Z")
#: Words that name no other thing than the secret before them: "secret key", but not "secret santa".
_SAME_THING = frozenset({"key", "keys", "value", "values", "hash", "string", "phrase", "code"})
#: "Invalid token: …" tells what is wrong with a token, or which one is.
_FAULT_BEFORE = re.compile(
    r"\b(?:bad|corrupt(?:ed)?|expired|illegal|invalid|malformed|missing|next|rejected|unexpected|unknown|unrecogni[sz]ed|"
    r"unsupported|wrong)(?:[ ][\w-]{1,20}){0,2}[ ]\Z",
    re.I,
)
_FAULTY = ("token", "tokens", "authorization", "credential", "credentials", "signature", "cookie", "auth", "jwt")
_CLAUSE = re.compile(r"[^\n;]{0,200}")
#: Behind these may follow a word of the language that is no secret.
_IS_BEFORE = re.compile(r"(?:[ \t+]|%(?:25){0,5}20)(?:is|was)(?:[ \t:+]|%(?:25){0,5}20)*\Z", re.I)
#: No word: it has a digit, or is mixed or long.
_NO_WORD = re.compile(r"(?=[\w.~+=/-]{4})(?:[\w.~+=-]*?\d|[\w.~+=-]*?[a-z][A-Z]|[\w.~+=/-]{24})")

_QUOTE = re.compile(r"(\\{0,15})([\"'`])")
#: ``b'…'`` and ``u'…'`` of Python, ``string(7) "…"`` of PHP.
_PREFIX = re.compile(r"(?:string\(\d{1,9}\)[ \t]{1,3}|[bru]{1,2}(?=\\{0,15}[\"']))", re.I)
_BRACKET = re.compile(r"[\[\](){}]|\\{0,15}[\"']")
#: The beginning of an object or a list of strings, as JSON, Python and others write it.
_DATA = re.compile(r"[\[{(]\s{0,20}+(?:\\{0,15}[\"']|[\w-]{1,60}\s{0,3}[:=])")
#: How long a phrase in brackets may be that is no data.
_PHRASE = 1000
#: An unquoted value: to a blank, a quote, ``&`` or ``;``; to a comma that ends a list item; quotes inside words count.
_TOKEN = re.compile(
    r"(?:[^\s\"'`,;&]|(?<=\w)[\"'`](?=\w)|,(?![\s\"'\\]|\Z|[\w.-]{1,60}+[\"']?[ \t]{0,3}[:=]))++",
)
_SCHEME = re.compile(
    r"(?:bearer|basic|digest|negotiate|ntlm|token|api-?key|key|hawk|dpop|signature|sharedkey(?:lite)?|aws4-hmac-sha256)"
    r"[ \t]{1,3}(?=[^\s,;])",
    re.I,
)
#: Any scheme of a header ``Authorization``.
_ANY_SCHEME = re.compile(r"[A-Za-z][\w-]{0,40}[ \t]{1,3}(?=[^\s,;\"'])")
_PARAMETER = r"[\w-]{1,40}=(?:\\{0,15}\"[^\"\n]{0,2000}\"|[^\s,\"']{1,2000}+(?!\"))"
_FIRST_PARAMETER = re.compile(_PARAMETER)
_PARAMETERS = re.compile(rf"(?:,[ \t]{{0,3}}{_PARAMETER})*")
_MORE_COOKIES = re.compile(r"(?:;[ \t]{0,3}[^\s;\"'=]{1,200}(?:=[^\s;\"']{0,5000})?)*")
#: Values that say that there is none.
_NOTHING = frozenset({"null", "none", "nil", "undefined", "nan", "empty", "unset", MASK})
#: What may stand behind "the password is" and "--token" without being one.
_PLAIN = frozenset(
    re.findall(
        r"\w+",
        "a absent accepted active allowed already also an and approved are at available bad because being blank "
        "blocked both broken by changed checked configured correct corrupt created declined deleted denied "
        "deprecated different disabled does done due either empty enabled enforced expected expired expiring "
        "failed false for forbidden found from given going good has ignored illegal in inactive incomplete "
        "incorrect inherited insecure insufficient invalid is issued it its known late leaked limited loaded "
        "locked long longer malformed mandatory masked me missing needed neither never no none not null obsolete "
        "of off ok older on only optional or out outdated passed pending present private protected provided public "
        "read received refused rejected removed replaced required reset revoked rotated safe sent set short "
        "shorter shown signed so stale still stored strong supplied taken that the their this to too true "
        "unauthorized undefined unexpected unknown unset unsigned unsupported unused updated used valid verified "
        "was weak what when where which with without wrong your ",
    )
)
_EDGE = ")]}>\\."

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,60})-----")
_PUBLIC = ("CERTIFICATE", "PUBLIC", "CRL", "PARAMETERS")
#: ``://`` of a URL, also as JSON escapes it.
_SLASHES = re.compile(r":(?:\\{0,15}/){2}")
_URL_END = re.compile(r"[\s\"'<>`|]|\Z")
_AUTHORITY_END = re.compile(r"[/?\\]")
_SCHEME_BEFORE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
#: What follows the colon of hosts with ports: nothing that is secret.
_PORTS = re.compile(r"\d*+(?:,[\w.-]*+(?::\d*+)?+)*+[^\w]*+\Z")
_DATABASES = ("postgres", "postgresql", "mysql", "mariadb", "redis", "rediss", "amqp", "amqps", "mongodb", "srv")
_LONG_USER = 20
#: Addresses whose path is the secret.
_HOOKS = re.compile(
    r"((?:hooks\.slack(?:-gov)?\.com\\{0,15}/(?:services|workflows|triggers)|discord(?:app)?\.com\\{0,15}/api\\{0,15}/webhooks"
    r"|webhook\.office\.com\\{0,15}/webhookb2|api\.telegram\.org)\\{0,15}/)([^\s\"'<>\\]+(?:\\{1,15}/[^\s\"'<>\\]*)*+)",
    re.I,
)
_HOOK_HINTS = ("hooks.slack", "discord", "webhook.office", "telegram")
#: JSON web tokens, and keys of well-known services that name themselves.
_TOKENS = re.compile(
    r"(?:(?<![A-Za-z0-9_-])|(?<=\\[nrt]))(?:"
    r"eyJ[A-Za-z0-9_-]{6,}+\.[A-Za-z0-9_-]*+(?:\.[A-Za-z0-9_-]*+)*+"
    r"|gh[pousr]_[A-Za-z0-9]{16,}+|github_pat_\w{16,}+|glpat-[\w-]{16,}+|xox[a-z]-[\w-]{8,}+|xapp-[\w-]{8,}+"
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{8,}+|AIza[\w-]{30,}+|npm_[A-Za-z0-9]{30,}+|SG\.[\w-]{16,}+\.[\w-]{16,}+)"
)
_TOKEN_HINTS = tuple(
    re.findall(r"\S+", "eyJ ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- xox xapp- k_live_ k_test_ AIza npm_ SG.")
)
#: ``curl -u user:password``, also as a list of arguments.
_USER_FLAG = re.compile(
    r"(?<![\w-])(?:-[A-Za-z#]{0,10}[uU]|--(?:proxy-)?user)(?:[\s,=\\]|[\"'](?=[\s,])){0,10}+"
    r"(\\{0,15}[\"'])?+(?:[\s,]{1,3}\\{0,15}[\"'])?+[^\s\"':]{0,200}:((?(1)[^\"'\\\n]++|[^\s\"'\\]++))"
)
#: ``-p`` and its kin of commands that take a password so: which commands, and the flag.
_PASSWORD_FLAG = re.compile(
    r"\b(?:(?:mysql|mariadb)[\w-]{0,20}\b[^\n|;]{0,300}?[ \t]-p|sshpass[ \t]{1,3}-p[ \t]{0,3}|"
    r"(?:redis-cli|valkey-cli)\b[^\n|;]{0,300}?[ \t]-a[ \t]{1,3}|ldap[a-z]{3,10}\b[^\n|;]{0,300}?[ \t]-w[ \t]{1,3}|"
    r"(?:docker|podman|helm)[ \t](?:registry[ \t])?login\b[^\n|;]{0,300}?[ \t]-p[ \t]{1,3})[\"']?([^\s\"'|;]++)"
)
#: ``login ann password …`` of .netrc, ``IDENTIFIED BY '…'`` and ``PASSWORD '…'`` of SQL, ``requirepass …`` of Redis.
_WORDED = re.compile(
    r"(?<![\w-])(?:login\s{1,20}\S{1,200}\s{1,20}(?:account\s{1,20}\S{1,200}\s{1,20})?password\s{1,20}|"
    r"identified\s{1,20}by\s{1,20}(?:password\s{1,20})?|(?:requirepass|masterauth)[ \t]{1,20}|"
    r"password[ \t]{1,20}(?=\\{0,15}[\"'][^\s\"']))(\\{0,15}[\"'])?"
    r"((?(1)[^\"'\\\n]++|[^\s\"'\\]++))",
    re.I,
)
_SCHEME_VALUE = re.compile(r"(?<![\w-])((?:bearer|basic)(?:[ \t]{1,3}|%20|\+))([A-Za-z0-9._~+/=-]{6,}+)", re.I)
#: No word of a language: "basic authentication" stays, "Basic dXNlcjpwYXNz" does not.
_CODED = re.compile(r"[0-9=_+~/]|[a-z][A-Z]|.{24}")


def hide(text: str, is_secret: Callable[[str], bool]) -> str:
    """The text with ``MASK`` for what is secret in it; ``is_secret`` judges names."""
    if "-----BEGIN " in text:
        text = _hide_pem(text)
    if ":/" in text or ":\\" in text:
        text = _hide_users(text)
    if "/" in text and any(hint in text.lower() for hint in _HOOK_HINTS):
        text = _HOOKS.sub(rf"\1{MASK}", text)
    if any(hint in text for hint in _TOKEN_HINTS):
        text = _TOKENS.sub(MASK, text)
    lower = text.lower()
    if "bearer" in lower or "basic" in lower:
        text = _SCHEME_VALUE.sub(lambda m: f"{m[1]}{MASK}" if _CODED.search(m[2]) else m[0], text)
    text = _hide_arguments(text, lower)
    return _hide_named(text, is_secret) if has_separator(text) else text


def may_hide(text: str) -> bool:
    """Whether ``hide`` can find a secret whatever its name is: cheap, never wrong about "no"."""
    if ":/" in text or ":\\" in text or "-----BEGIN " in text or any(hint in text for hint in _TOKEN_HINTS):
        return True
    lower = text.lower()
    if "bearer" in lower or "basic" in lower or ("/" in text and any(hint in lower for hint in _HOOK_HINTS)):
        return True
    return any(word in lower for word in _ARGUMENT_HINTS)


def has_separator(text: str) -> bool:
    """Whether the text has what stands between a name and its value."""
    if ":" in text or "=" in text or "<" in text or "->" in text or " -" in text or text.startswith("-"):
        return True
    if "%" in text or "--" in text or (not text.isascii() and any(sign in text for sign in "\uff1a\uff1d\u2192\u21d2")):
        return True
    if "," in text and ("[" in text or "(" in text):
        return True
    lower = text.lower()
    return "is" in lower or "was" in lower


def _hide_pem(text: str) -> str:
    parts, at = [], 0
    while found := _PEM.search(text, at):
        parts.append(text[at : found.end()])
        at = found.end()
        if any(word in found[1] for word in _PUBLIC) and "PRIVATE" not in found[1]:
            continue
        parts.append(MASK)
        at = text.find("-----END", at)
        if at < 0:  # cut off: all that is left belongs to it
            return "".join(parts)
    return "".join([*parts, text[at:]])


#: In lower case, what stands in every text in which ``_hide_arguments`` finds something.
_ARGUMENT_HINTS = ("curl", "password", "identified", "requirepass", "masterauth", "sshpass", "mysql", "mariadb",
                   "redis-cli", "valkey-cli", "ldap", "login")  # fmt: skip


def _hide_arguments(text: str, lower: str) -> str:
    """Hide what commands and languages take for a password by its place."""
    if "curl" in lower:
        text = _USER_FLAG.sub(_without_last, text)
    if any(word in lower for word in _ARGUMENT_HINTS[1:]):
        text = _PASSWORD_FLAG.sub(_without_last, text)
        text = _WORDED.sub(_without_last, text)
    return text


def _without_last(found: re.Match[str]) -> str:
    """The match with its last group hidden, unless that says something."""
    number = found.re.groups
    if found[number].strip("<>[](){}:!?*.,").lower() in _NOTHING | _PLAIN:
        return found[0]
    return found[0][: found.start(number) - found.start()] + MASK


def _hide_users(text: str) -> str:
    """Hide passwords, and tokens used as user names, in the user-info of URLs."""
    parts, done, end = [], 0, -1
    for slashes in _SLASHES.finditer(text):
        begin = slashes.end()
        if begin < done:
            continue  # inside what is hidden already
        if end < begin:
            found = _URL_END.search(text, begin)
            end = found.start() if found else len(text)
        scheme = _SCHEME_BEFORE.search(text[max(done, slashes.start() - 32) : slashes.start()])
        hidden = _user_info(text, begin, end, scheme[0].lower() if scheme else "")
        if hidden:
            parts += [text[done : hidden[0]], MASK]
            done = hidden[1]
    return "".join([*parts, text[done:]])


def _user_info(text: str, begin: int, end: int, scheme: str) -> tuple[int, int] | None:
    """Which part of the user-info of the URL in ``text[begin:end]`` is hidden."""
    stop = _AUTHORITY_END.search(text, begin, end)
    authority = stop.start() if stop else end
    at = text.rfind("@", begin, authority)
    colon = text.find(":", begin, authority if at < 0 else at)
    is_web = scheme.endswith(("http", "https")) or scheme in ("ws", "wss")
    if at < 0:
        if colon < 0 or text.startswith("[", begin):
            return None
        if not _PORTS.match(text[colon + 1 : authority]):
            # A password with a slash in it; or the text was cut off before its end.
            at = text.rfind("@", colon, end)
            at = at if at >= 0 else authority
        elif scheme.endswith(_DATABASES):
            at = text.rfind("@", colon, end)
            if at < 0:
                return None
        else:
            return None
    if is_web:
        return begin, at
    if 0 <= colon < at:
        return (colon + 1, at) if colon + 1 < at else None
    return (begin, at) if at - begin >= _LONG_USER else None


def _hide_named(text: str, is_secret: Callable[[str], bool]) -> str:
    text = _hide_matches(text, _NAMED, lambda found: _secret_name(text, found, is_secret), is_secret)
    if "," in text and ('"' in text or "'" in text):
        for pattern in (_FIELD, _PAIR):
            text = _hide_matches(text, pattern, lambda found: found[1] if is_secret(found[1]) else "", is_secret)
    if "<" in text:
        text = _hide_elements(text, is_secret)
    if "-" in text:
        text = _hide_matches(text, _FLAG, lambda found: found[1] if is_secret(found[1]) else "", is_secret, plain=True)
    return text


def _hide_matches(
    text: str,
    pattern: re.Pattern[str],
    name_of: Callable[[re.Match[str]], str],
    is_secret: Callable[[str], bool],
    *,
    plain: bool = False,
) -> str:
    """Hide the value behind each match that has a secret name; with ``plain`` not if it is a word of the language."""
    parts, done, at = [], 0, 0
    while found := pattern.search(text, at):
        at = found.end()
        name = name_of(found)
        if not name:
            # The value may be a name itself: a=password=x.
            continue
        is_faulty = (
            not plain
            and found[0].rstrip(" \t").endswith(":")
            and _FAULT_BEFORE.search(text, max(0, found.start() - 80), found.start())
        )
        if is_faulty and _tells_a_fault(text, at, name):
            continue
        is_word = plain or bool(is_faulty) or _IS_BEFORE.search(text, found.start(), at) is not None
        hidden = _value(text, at, name, is_word=is_word)
        if hidden and hidden[0] < hidden[1]:
            parts += [text[done : hidden[0]], MASK]
            done = at = hidden[1]
    return "".join([*parts, text[done:]])


def _secret_name(text: str, found: re.Match[str], is_secret: Callable[[str], bool]) -> str:
    """The name before a separator if it is a secret one, with up to two words before it: ``private key``."""
    name, begin = found[1], found.start()
    if is_secret(name):
        return name
    if begin and text[begin - 1] == "\\" and name[:1] in "nrtf" and is_secret(name[1:]):
        return name[1:]  # the rest of an escaped line end
    if begin and text[begin - 1] == "%" and is_secret(name[2:]):
        return name[2:]
    joined, before = name, text[max(0, begin - 60) : begin]
    for _ in range(2):
        word = _WORD_BEFORE.search(before)
        if word is None:
            break
        if is_secret(word[1]):
            # Only if the name needs its last word: "secret santa: x" has none.
            return f"{word[1]}{joined}" if joined.lower() in _SAME_THING else ""
        if is_secret(f"{word[1]}{joined}"):
            return f"{word[1]}{joined}"
        joined, before = f"{word[1]}{joined}", before[: word.start()]
    return ""


def _tells_a_fault(text: str, at: int, name: str) -> bool:
    """Whether words follow that say what is wrong: "Invalid token: signature verification failed"."""
    clause = _CLAUSE.match(text, at)
    is_long = re.sub(r"[\W_]", "", name).lower().endswith(_FAULTY)
    return is_long and clause is not None and not _NO_WORD.search(clause[0])


def _hide_elements(text: str, is_secret: Callable[[str], bool]) -> str:
    parts, done = [], 0
    while found := _ELEMENT.search(text, done):
        begin = found.end()
        parts.append(text[done:begin])
        done = begin
        if found[0].endswith("/>") or not is_secret(found[2]):
            continue
        end = text.find(f"</{found[1]}", begin)
        end = end if end >= 0 else text.find("<", begin)
        if end < 0:
            end = begin if text[begin:].isspace() else len(text)
        if text[begin:end].strip():
            parts.append(MASK)
            done = end
    return "".join([*parts, text[done:]])


def _value(text: str, at: int, name: str, *, is_word: bool) -> tuple[int, int] | None:
    """Where the value that begins at ``at`` begins and ends; None when there is nothing to hide."""
    prefix = _PREFIX.match(text, at)
    begin = prefix.end() if prefix else at
    quote = _QUOTE.match(text, begin)
    if quote:
        end = _closing(text, quote.end(), len(quote[1]), quote[2])
        return quote.end(), end if end >= 0 else len(text)
    if text[at : at + 1] in ("{", "[", "("):
        is_data = _DATA.match(text, at) is not None
        end = _balanced(text, at, len(text) if is_data else at + _PHRASE)
        if end >= 0:
            return (at, end) if end > at + 2 else None
        if is_data:
            return at, len(text)
    return _unquoted(text, at, name, is_word=is_word)


def _unquoted(text: str, at: int, name: str, *, is_word: bool) -> tuple[int, int] | None:
    folded = re.sub(r"[\W_]", "", name).lower()
    scheme = (_ANY_SCHEME if "authorization" in folded else _SCHEME).match(text, at)
    begin = scheme.end() if scheme else at
    token = _TOKEN.match(text, begin)
    if token is None:
        return None
    end = token.end()
    if text[end - 1] in "([{" and (quote := _QUOTE.match(text, end)):
        # SecretStr('…'): the value goes on.
        closing = _closing(text, quote.end(), len(quote[1]), quote[2])
        return at, closing if closing >= 0 else len(text)
    value = token[0].rstrip(_EDGE)
    if not value:
        return None
    word = value.strip("<>[](){}:!?*").lower()
    if not scheme and (word in _NOTHING or (is_word and word in _PLAIN)):
        return None
    if "authorization" in folded:
        first = _FIRST_PARAMETER.match(text, begin)
        more = _PARAMETERS.match(text, first.end() if first else end)
        if first or (more and more[0]):
            return at, more.end() if more else end
    elif "cookie" in folded:
        more = _MORE_COOKIES.match(text, end)
        if more and more[0]:
            return at, more.end()
    return at, begin + len(value)


def _closing(text: str, begin: int, level: int, quote: str) -> int:
    """Where the string ends that began with ``level`` backslashes and a quote; -1 when it does not.

    Text that was escaped once writes its quotes as ``\\"``, and a quote inside its strings as ``\\\\\\"``.
    """
    at = begin
    while (at := text.find(quote, at)) >= 0:
        slashes = 0
        while at - slashes > begin and text[at - slashes - 1] == "\\":
            slashes += 1
        if slashes < level or slashes % (2 * (level + 1)) == level:
            if level == 0 and at > begin and text.startswith(quote, at + 1):
                at += 2  # doubled: SQL's and ODBC's way to escape it
                continue
            return at - slashes if slashes <= level else at - level
        at += 1
    return -1


def _balanced(text: str, begin: int, most: int) -> int:
    """The end of the brackets that open at ``begin``, strings inside skipped; -1 when they do not close."""
    depth, at = 0, begin
    while found := _BRACKET.search(text, at, most):
        at = found.end()
        sign = found[0]
        if sign in "[({":
            depth += 1
        elif sign in "])}":
            depth -= 1
            if depth == 0:
                return at
        else:
            at = _closing(text, at, len(sign) - 1, sign[-1])
            if at < 0:
                return -1
            while at < len(text) and text[at] == "\\":
                at += 1
            at += 1
    return -1
