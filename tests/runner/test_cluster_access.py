# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nobody but the one who runs imgfp can speak to its workers."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from imgfp.__main__ import main
from imgfp.runner import cluster
from imgfp.runner.params import ParameterError

#: As user argv[1], asks the scheduler at argv[2] to run something, in the ways that argv[3:] name.
ASK = """
import os, sys
import cryptography.hazmat.primitives.asymmetric.rsa, cryptography.x509, distributed.comm.tcp
from distributed import Client
from distributed.security import Security

_, uid, scheduler, *asked = sys.argv
os.setuid(int(uid))  # after the imports: packages may be in a folder of the one who installed them

ways = {
    "inherited": lambda: Security(),
    "without a key": lambda: Security(require_encryption=False),
    "with a key of its own": Security.temporary,
}
for way in asked:
    address = scheduler.replace("tls", "tcp") if way == "without a key" else scheduler
    patience = 60 if way == "inherited" else 3  # seconds
    try:
        with Client(address, security=ways[way](), timeout=patience) as client:
            print(way, "ran as", client.run_on_scheduler(os.getuid))
    except Exception as error:
        print(way, "refused", type(error).__name__)
"""
ANYBODY = 65534


def ask(uid: int, address: str, *ways: str, environment: dict[str, str]) -> list[str]:
    asked = subprocess.run(
        [sys.executable, "-c", ASK, str(uid), address, *ways],
        env=environment | {"TMPDIR": "/tmp"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert asked.returncode == 0, asked.stderr
    return asked.stdout.splitlines()


@pytest.fixture(scope="module")
def local():
    """The address of a cluster of one process, and the environment as it was before."""
    before = dict(os.environ)
    with cluster.processes(1) as address:
        yield address, before
    assert not {name for name in os.environ if "TLS" in name} - set(before)


@pytest.mark.parametrize("uid", [os.getuid(), ANYBODY], ids=["same user", "another user"])
def test_only_who_holds_the_key_of_the_run_is_heard(local, uid):
    if uid != os.getuid() and os.getuid() != 0:
        pytest.skip("only root can take the place of another user")
    address, before = local
    ways = ["without a key", "with a key of its own"]
    answers = ask(uid, address, *ways, environment=before)
    assert [answer.partition(" refused")[0] for answer in answers] == ways, answers
    heard = ask(uid, address, "inherited", environment=dict(os.environ))
    assert heard == [f"inherited ran as {os.getuid()}"]


def test_the_http_servers_of_a_local_cluster_tell_nothing(local):
    from distributed import Client

    address, _ = local
    with Client(address) as client:
        info = client.scheduler_info()
        ports = [info["services"]["dashboard"]]
        ports += [worker["services"]["dashboard"] for worker in info["workers"].values()]
    for port in ports:
        for path in ("", "info/main/workers.html", "json/identity.json", "metrics"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10)


@pytest.mark.parametrize("address", ["tcp://host:8786", "ws://host:8786", "localhost:8786"])
def test_a_scheduler_without_tls_is_refused_until_it_is_allowed(address, monkeypatch):
    monkeypatch.setattr(cluster, "_insecure", set())
    with (
        pytest.raises(ParameterError, match=r"^cluster: .* not encrypted.*insecure_cluster.*$"),
        cluster.client(address),
    ):
        pass
    assert cluster.trusted(address, insecure_cluster=True) == address == cluster.trusted(address)
    with pytest.raises(ParameterError, match="not encrypted"):
        cluster.trusted("tcp://another:8786")


def test_a_profile_may_allow_a_scheduler_without_tls(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cluster, "_insecure", set())
    words = ["run", "mine", f"reference_dir={tmp_path}", f"query_dir={tmp_path}", "--status"]
    assert main([*words, "cluster=tcp://host:8786", "insecure_cluster=true"]) == 0
    assert cluster.trusted("tcp://host:8786")


def test_tls_without_certificates_is_one_clear_line(local):
    import dask

    with (
        dask.config.set({"distributed.comm.tls.ca-file": None}),
        pytest.raises(ValueError, match=r"^cluster: no Dask scheduler .*certificates.*$"),
        cluster.client(local[0]),
    ):
        pass


def test_the_dashboard_of_a_scheduler_is_named_where_it_serves_one(local):
    import dask
    from distributed import LocalCluster

    assert cluster.dashboard("local") == cluster.dashboard(local[0]) == ""
    plain = {"distributed.comm.require-encryption": False}
    places = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    with (
        dask.config.set(plain),
        LocalCluster(n_workers=0, processes=False, **places) as started,
    ):
        address = cluster.trusted(started.scheduler_address, insecure_cluster=True)
        assert cluster.dashboard(address) == started.dashboard_link != ""
