"""A storage hears of what its hosts tell, once for each host, and only as long as it is there."""

from __future__ import annotations

from dataclasses import replace

from kadalu_ext.gluster.tls import Tls
from kadalu_ext.operator.metrics import Key
from kadalu_ext.operator.reconcile import Done
from kadalu_ext.operator.watching import HOSTS, GlusterWatcher
from tests.unit.gluster.fake_hosts import FakeHosts
from tests.unit.operator.samples import SPEC, usable

EXT: Key = ("default", "ext")


def asked_for(hosts: str) -> Done:
    spec = {"type": "External", "details": {"gluster_hosts": hosts, "gluster_volname": "v"}}
    return Done(spec=usable(spec).spec)


def test_what_a_host_tells_reaches_its_storage() -> None:
    hosts, told = FakeHosts(), list[Key]()
    watcher = GlusterWatcher(hosts.listen, told.append)
    watcher.watch(EXT, asked_for("a,b"))
    watcher.watch(EXT, asked_for("a,b"))
    assert hosts.hosts() == [("a", "b")]
    hosts.tell()
    assert told == [EXT, EXT]


def test_other_hosts_are_listened_to_instead_and_none_when_the_storage_is_gone() -> None:
    hosts = FakeHosts()
    watcher = GlusterWatcher(hosts.listen, lambda _: None)
    watcher.watch(EXT, asked_for("a"))
    watcher.watch(EXT, asked_for("b"))
    watcher.watch(EXT, Done())
    assert hosts.hosts() == [("b",)]
    watcher.forget(EXT)
    watcher.forget(EXT)
    assert hosts.hosts() == []


def test_an_encrypted_cluster_is_listened_to_with_what_was_found_for_it() -> None:
    hosts = FakeHosts()
    watcher = GlusterWatcher(hosts.listen, lambda _: None)
    done = replace(asked_for("a"), spec=usable({**SPEC, "tls": {"secretName": "s"}}).spec)
    watcher.watch(EXT, done)
    assert hosts.hosts() == []
    for key in ("1", "2"):
        tls = Tls(certificate="c", key=key, ca="ca")
        watcher.watch(EXT, replace(done, tls=tls))
        assert (hosts.hosts(), hosts.spoken) == ([("node1",)], tls)


def test_not_all_of_many_hosts_are_listened_to() -> None:
    hosts = FakeHosts()
    GlusterWatcher(hosts.listen, lambda _: None).watch(EXT, asked_for("a,b,c,d,e,f"))
    assert [len(each) for each in hosts.hosts()] == [HOSTS]
