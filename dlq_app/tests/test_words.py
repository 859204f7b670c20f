"""What a search finds: words whatever their case and form, their parts, and words without spaces between them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pymongo.database import Database

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.domain.paging import PageRequest
from dlq_app.domain.search_terms import MAX_WORD, MAX_WORDS, error_words, whole_words, words
from dlq_app.store.repository import Letters
from dlq_app.testing import a_document
from dlq_app.tests.batch_rig import Rig

POLICY = MaskingPolicy()
REASON = (
    "接続エラーが発生しました: 订单5521失败, SocketTimeout in HTTPServer for email_address ORD0042, "
    "ｆｕｌｌ ﬁle ÉCOLE Straße 주문이 실패했습니다 " + "filler words to get far into this text " * 20 + "QX77Z"  # noqa: RUF001
)
FOUND = (
    "エラー", "発生", "订单", "失败", "5521", "订单5521", "Timeout", "socket", "sockettimeout", "http", "Server",
    "email", "address", "email_address", "0042", "ORD0042", "full", "file", "école", "e\u0301cole", "STRASSE", "주문",
    "실패", "qx77z", "QX77Z filler", "TIMEOUT_ERROR",
)  # fmt: skip
NOT_FOUND = ("imeout", "ocket", "订失", "payload", "5522")


def is_found(search: str, reason: str = REASON) -> bool:
    return set(words(search)) <= set(error_words("TIMEOUT_ERROR", reason, POLICY))


@pytest.mark.parametrize("search", FOUND)
def test_it_finds(search: str) -> None:
    assert is_found(search)


@pytest.mark.parametrize("search", NOT_FOUND)
def test_it_does_not_find(search: str) -> None:
    assert not is_found(search)


@given(some.text(min_size=1, max_size=100))
def test_a_text_is_found_by_itself_and_what_is_kept_is_bounded(text: str) -> None:
    kept = error_words("E", text, MaskingPolicy((), frozenset()))

    assert set(words(text)) <= set(kept)
    assert len(kept) <= MAX_WORDS
    assert all(len(one) <= MAX_WORD for one in kept)


@pytest.mark.parametrize("text", ["aB1_" * 2048, " ".join(f"W{n}aB" for n in range(2000)), "エラー" * 3000])
def test_long_texts_leave_a_bounded_number_of_words(text: str) -> None:
    assert len(error_words("E", text, POLICY)) <= MAX_WORDS


@pytest.mark.mongo
def test_letters_of_an_earlier_version_are_found_as_before_and_wholly_once_refreshed(
    store: Database[dict[str, Any]], letters: Letters
) -> None:
    store["dead_letters"].insert_one(a_document("m-1", errorReason=REASON, searchWords=whole_words(REASON)[:24]))

    def finds(search: str) -> bool:
        criteria = LetterCriteria.parse({"search": search})
        found = letters.page(criteria, PageRequest()).letters
        assert letters.count(criteria).count == len(found)
        return bool(found)

    assert finds("接続エラーが発生しました")
    assert finds("SocketTimeout")
    assert finds("email_address")
    assert not finds("発生")

    assert letters.refresh_words("", POLICY).changed == 1

    assert [search for search in FOUND if not finds(search)] == []
    assert not any(map(finds, NOT_FOUND))
    assert letters.refresh_words("", POLICY).changed == 0


@pytest.mark.mongo
def test_a_new_letter_is_found_at_once(rig: Rig) -> None:
    rig.die("m-1", error_reason=REASON)

    for search in FOUND:
        found = rig.letters.page(LetterCriteria.parse({"search": search}), PageRequest()).letters
        assert [one.message_id for one in found] == ["m-1"], search


@pytest.mark.parametrize(
    "search", ["timeout", "TIMEOUT_ERROR", "Error timeout", "gateway", "PaymentGateway", "declined"]
)
def test_an_error_type_is_found_whole_and_in_parts(search: str) -> None:
    kept = {*error_words("TIMEOUT_ERROR", "x", POLICY), *error_words("PaymentGateway.declined", "x", POLICY)}

    assert set(words(search)) <= kept
