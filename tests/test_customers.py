"""Each tenant is asked for once; what was answered holds for the whole command."""

from __future__ import annotations

import tracemalloc

import pytest

from uploader.model.api import Verdict
from uploader.model.model import Outcome, Reason
from uploader.posting.customers import Customers

FOUND = Verdict(outcome=Outcome(None, http_status=200), customer_id="cus_1")
UNKNOWN = Verdict(outcome=Outcome(Reason.CUSTOMER_NOT_FOUND, "unknown", 404))
FAILED = Verdict(outcome=Outcome(Reason.LOOKUP_FAILED, "no answer"))


@pytest.fixture
def customers() -> Customers:
    """Begin a command that knows no tenant."""
    return Customers()


def test_tenants_are_asked_for_once_and_in_order(customers: Customers) -> None:
    """However many rows name a tenant, before its look-up starts, while it runs or after: one look-up."""
    for tenant_id in ("b", "a", "b", "c", "a"):
        assert customers.customer_id(tenant_id) is None
    assert [customers.next_to_ask() for _ in range(3)] == ["b", "a", "c"]
    assert not customers.has_some_to_ask
    assert customers.customer_id("a") is None
    assert not customers.has_some_to_ask
    customers.settle("a", FOUND)
    assert customers.customer_id("a") == "cus_1"
    assert not customers.has_some_to_ask


@pytest.mark.parametrize("verdict", [UNKNOWN, FAILED])
def test_a_failed_look_up_is_the_outcome_of_all_the_tenants_rows(customers: Customers, verdict: Verdict) -> None:
    """A tenant that was not found, or whose look-up failed for good, is not asked for again."""
    assert customers.customer_id("a") is None
    customers.settle(customers.next_to_ask(), verdict)
    assert customers.customer_id("a") == verdict.outcome
    assert not customers.has_some_to_ask


def test_tenants_that_fail_alike_share_an_outcome(customers: Customers) -> None:
    """Thousands of unknown tenants do not keep as many copies of one answer; another answer is kept as it is."""
    outcomes = [Outcome(Reason.CUSTOMER_NOT_FOUND, "unknown", 404, body) for body in ("{}", "{}", "[]", "[]")]
    for number, outcome in enumerate(outcomes):
        assert customers.customer_id(f"{number}") is None
        customers.settle(customers.next_to_ask(), Verdict(outcome=outcome))
    known = [customers.customer_id(f"{number}") for number in range(4)]
    assert known == outcomes
    assert known[0] is known[1]
    assert known[2] is known[3]


def test_tenants_are_told_apart_by_every_character(customers: Customers) -> None:
    """Ids that differ in case or in leading zeros are different tenants."""
    for tenant_id in ("acme", "Acme", "0042", "42"):
        assert customers.customer_id(tenant_id) is None
    assert [customers.next_to_ask() for _ in range(4)] == ["acme", "Acme", "0042", "42"]


def test_the_first_tenant_asked_for_is_the_probe(customers: Customers) -> None:
    """The probe is there before any answer is: a backend that is down from the start gives none."""
    assert customers.first_tenant is None
    for tenant_id in ("b", "a"):
        assert customers.customer_id(tenant_id) is None
    assert customers.first_tenant is None
    assert customers.next_to_ask() == "b"
    assert customers.first_tenant == "b"
    customers.settle(customers.next_to_ask(), FOUND)
    assert customers.first_tenant == "b"


def found(customer_id: str) -> Verdict:
    """Make the verdict of a look-up that found a customer."""
    return Verdict(outcome=Outcome(None, http_status=200), customer_id=customer_id)


def test_each_of_many_tenants_keeps_its_own_customer() -> None:
    """More than are remembered at hand: each is found again, long after its look-up, and asked for once."""
    customers = Customers(most_recent=50, pages=16)
    ids = {f"{number}": f"cus_{number * 7}" for number in range(2_000)}
    for tenant_id, customer_id in ids.items():
        assert customers.customer_id(tenant_id) is None
        customers.settle(customers.next_to_ask(), found(customer_id))
    assert {tenant_id: customers.found_id(tenant_id) for tenant_id in ids} == ids
    assert {tenant_id: customers.customer_id(tenant_id) for tenant_id in ids} == ids
    assert not customers.has_some_to_ask


MARKED = [
    "a",
    "b\tc",
    "b",
    "c",
    "a\tx\nb",
    "x\ny\tz",
    "é",
    "\ud800",
    " ",
    "y",
    "\n",
    "\t",
    "a\t",
    "\na",
    "z",
    "b\tcus_2\nc",
]


@pytest.mark.parametrize("ending", ["", "\n", "\ty\n", "\nz\tcus_1"], ids=repr)
def test_no_id_is_taken_for_another_tenants(ending: str) -> None:
    """Whatever characters ids have, and whichever tenants' ids are kept together."""
    customers = Customers(most_recent=1, pages=1)
    for number, tenant_id in enumerate(MARKED):
        assert customers.customer_id(tenant_id) is None
        with pytest.raises(KeyError):
            customers.found_id(tenant_id)
        customers.settle(customers.next_to_ask(), found(f"cus_{number}{ending}"))
    assert [customers.found_id(name) for name in MARKED] == [f"cus_{number}{ending}" for number in range(len(MARKED))]


@pytest.mark.parametrize("other", ["me", "acm", "cm", "acme-eu", "the-acme", "cus_acme", "acmecus_acme"])
def test_an_id_that_is_a_part_of_another_is_another(other: str) -> None:
    """A tenant whose id ends, begins or stands within another's, or its customer's, has a customer of its own."""
    customers = Customers(most_recent=1, pages=1)
    for tenant_id in ("acme", other):
        assert customers.customer_id(tenant_id) is None
        customers.settle(customers.next_to_ask(), Verdict(outcome=Outcome(None), customer_id=f"cus_{tenant_id}"))
    for tenant_id in ("acme", other):
        assert customers.customer_id(tenant_id) == customers.found_id(tenant_id) == f"cus_{tenant_id}"


def test_a_tenant_costs_little_memory() -> None:
    """A million tenants, each with a customer of its own, must fit."""
    tenants = 16_000
    tracemalloc.start()
    try:
        customers = Customers(most_recent=100, pages=1_000)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(tenants):
            assert customers.customer_id(f"tenant-{number:07}") is None
            customers.settle(customers.next_to_ask(), found(f"cus_{number:07}"))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown / tenants < 60
