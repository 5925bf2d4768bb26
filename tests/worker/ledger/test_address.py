"""One URL for all who speak with Redis."""

import pytest

from woolly_worker.ledger.address import RedisAddress


def test_what_kombu_is_told_is_what_the_url_says() -> None:
    address = RedisAddress.parse("rediss://me:p%40ss@[::1]:7000/2?ssl_ca_certs=/ca.pem")
    broker = address.broker()
    assert broker.url == "rediss://me:p%40ss@[::1]:7000/2"
    # kombu checks no certificate unless it is told to.
    assert broker.use_ssl == {"ssl_ca_certs": "/ca.pem", "ssl_cert_reqs": "required", "ssl_check_hostname": True}
    assert RedisAddress.parse("rediss://h").broker().use_ssl == {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
    }
    assert RedisAddress.parse("redis://h").broker().use_ssl is None


def test_sentinels_in_both_spellings() -> None:
    address = RedisAddress.parse("sentinels://me:pw@a:1,b/the-master/3?sentinel_password=s")
    assert (address.hosts, address.master, address.db) == ((("a", 1), ("b", 26379)), "the-master", 3)
    broker = address.broker()
    assert broker.url == "sentinel://me:pw@a:1/3;sentinel://me:pw@b:26379/3"
    assert broker.transport_options["master_name"] == "the-master"
    assert broker.transport_options["sentinel_kwargs"]["password"] == "s"
    assert broker.transport_options["sentinel_kwargs"]["ssl"] is True


def test_a_socket() -> None:
    address = RedisAddress.parse("unix://me:p%40ss@/tmp/with%20space/r.sock?db=3")
    assert (address.hosts, address.socket, address.db) == ((), "/tmp/with space/r.sock", 3)
    assert address.broker().url == "redis+socket://me:p%40ss@/tmp/with space/r.sock?virtual_host=3"
    assert address.shown == "unix://me:**@/tmp/with%20space/r.sock?db=3"


def test_no_password_is_shown() -> None:
    address = RedisAddress.parse("sentinel://me:hidden@a,b/m?sentinel_password=hidden")
    assert address.shown == "sentinel://me:**@a:26379,b:26379/m/0"
    assert "hidden" not in repr(address)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h", "it has to begin with redis://"),
        ("redis://:hidden@h?ssl_ca_certs=x", "no parameter 'ssl_ca_certs'; it has none"),
        ("rediss://:hidden@h?ssl_certfile=x", "belong together"),
        ("rediss://:hidden@h?ssl_cert_reqs=maybe", "required, optional or none"),
        ("redis://:hidden@a,b", "it names 2 hosts"),
        ("redis://:hidden@a:x", "the port is no number"),
        ("redis://:hidden@a/one", "the database has to be a number"),
        ("redis://:hidden@a/1/2", "only the number of a database"),
        ("unix://:hidden@host/r.sock", "a path that begins with a slash"),
        ("unix://:hidden@", "a path that begins with a slash"),
        ("unix://:hidden@/r.sock?db=one", "the database has to be a number"),
        ("unix://:hidden@/r.sock?password=hidden", "no parameter 'password'; it has db"),
        ("sentinel://:hidden@a", "needs the name of the master"),
    ],
)
def test_what_is_wrong_is_named_and_the_password_is_not(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        RedisAddress.parse(url)
    assert "hidden" not in str(caught.value)
