"""Exec plugins: how they are run, what they are told, and everything that they do wrong."""

import base64
import os
from pathlib import Path

import anyio
import pytest

from collector.kube.connection import ClusterEntry, ConnectionInfo, Exec, Extension, User, Variable
from collector.kube.credential_plugin import CredentialPlugin
from collector.kube.errors import BadContextError, CredentialPluginFailedError, CredentialPluginMissingError
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

V1 = "client.authentication.k8s.io/v1"


@pytest.fixture
def make(plugin):
    """Give what makes an ExecPlugin of the script, with other settings where wanted."""

    def made(cluster=None, timeout=60.0, **settings):
        command = {"command": str(plugin.path), "api_version": V1, "interactive_mode": "Never"} | settings
        info = ConnectionInfo(
            where="x",
            cluster=cluster or ClusterEntry(server="https://c"),
            folder=str(plugin.folder),
            user=User(exec=Exec(**command)),
        )
        return CredentialPlugin(info, timeout=timeout)

    return made


def gone(pid):
    """Tell whether a process has ended and been reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_token_with_its_end_is_read(plugin, make):
    plugin.answer(token="s3cr3t-1", expirationTimestamp="2027-01-15T08:00:00Z")
    found = await make().run()
    assert found.authorization == "Bearer s3cr3t-1"
    assert found.expires == 1_800_000_000
    assert found.certificate is None


async def test_a_certificate_is_read(plugin, make):
    plugin.answer(clientCertificateData="CERT s3cr3t", clientKeyData="KEY s3cr3t")
    found = await make().run()
    assert (found.certificate.chain, found.certificate.key) == (b"CERT s3cr3t", b"KEY s3cr3t")
    assert (found.authorization, found.expires) == ("", None)


async def test_the_beta_version_is_spoken_too(plugin, make):
    plugin.answer("v1beta1", token="s3cr3t")
    await make(api_version="client.authentication.k8s.io/v1beta1").run()
    assert plugin.information["apiVersion"] == "client.authentication.k8s.io/v1beta1"


async def test_arguments_and_variables_reach_it_and_its_input_is_closed(plugin, make, monkeypatch):
    monkeypatch.setenv("INHERITED", "yes")
    plugin.script('cat; echo "$# $1 $2 $OWN $INHERITED" > "$here/said"; cat "$here/answer"')
    plugin.answer(token="s3cr3t")
    await make(args=("get token", "-x"), env=(Variable(name="OWN", value="s3cr3t"),)).run()
    assert (plugin.folder / "said").read_text() == "2 get token -x s3cr3t yes\n"


async def test_it_gets_no_cluster_information_by_default(plugin, make):
    plugin.answer(token="s3cr3t")
    await make().run()
    assert plugin.information == {"kind": "ExecCredential", "apiVersion": V1, "spec": {"interactive": False}}


async def test_it_gets_cluster_information_on_request(plugin, make, tmp_path):
    (tmp_path / "ca.crt").write_text("PEM")
    plugin.answer(token="s3cr3t")
    cluster = ClusterEntry(
        server="https://c:6443",
        certificate_authority=str(tmp_path / "ca.crt"),
        tls_server_name="kubernetes.test",
        proxy_url="http://proxy:3128",
        extensions=(
            Extension(name="other", extension=1),
            Extension(name="client.authentication.k8s.io/exec", extension={"audience": "a"}),
        ),
    )
    await make(cluster, provide_cluster_info=True).run()
    assert plugin.information["spec"]["cluster"] == {
        "server": "https://c:6443",
        "tls-server-name": "kubernetes.test",
        "certificate-authority-data": base64.b64encode(b"PEM").decode(),
        "proxy-url": "http://proxy:3128",
        "config": {"audience": "a"},
    }


async def test_a_relative_command_is_beside_the_kubeconfig(plugin, make):
    plugin.answer(token="s3cr3t")
    assert (await make(command="./plugin").run()).authorization == "Bearer s3cr3t"


async def test_a_bare_command_is_looked_for_in_the_path_alone(plugin, make, monkeypatch, failure):
    plugin.answer(token="s3cr3t")
    monkeypatch.chdir(plugin.folder)
    assert type(await failure(make(command="plugin").run())) is CredentialPluginMissingError
    monkeypatch.setenv("PATH", f"{plugin.folder}:{os.environ['PATH']}")
    assert (await make(command="plugin").run()).authorization == "Bearer s3cr3t"


async def test_an_absent_command_is_named_with_its_hint(make, failure):
    error = await failure(make(command="aws-that-is-not", install_hint="Install it:\n\n  brew install aws").run())
    assert type(error) is CredentialPluginMissingError
    assert str(error) == 'x: exec plugin "aws-that-is-not" is not installed: Install it: brew install aws'


async def test_one_that_is_installed_later_is_found(plugin, make, failure):
    plugin.answer(token="s3cr3t")
    later = make()
    plugin.path.rename(plugin.folder / "away")
    assert type(await failure(later.run())) is CredentialPluginMissingError
    (plugin.folder / "away").rename(plugin.path)
    assert (await later.run()).authorization == "Bearer s3cr3t"


async def test_a_command_that_cannot_be_executed_says_so(plugin, make, failure):
    plugin.path.chmod(0o644)
    error = await failure(make().run())
    assert type(error) is CredentialPluginFailedError
    assert str(error) == f'x: exec plugin "{plugin.path}": {plugin.path} is not executable'


async def test_a_script_without_its_interpreter_says_so(plugin, make, failure):
    plugin.path.write_text("#!/no/such/interpreter\n")
    error = await failure(make().run())
    assert str(error) == f'x: exec plugin "{plugin.path}" cannot be started: no such file or directory'


async def test_a_failure_has_the_exit_code_and_the_first_line(plugin, make, failure):
    plugin.script('echo s3cr3t; printf "\\n  Session   expired\\t(log in)\\nTraceback s3cr3t\\n" >&2; exit 255')
    error = await failure(make().run())
    assert type(error) is CredentialPluginFailedError
    assert str(error) == f'x: exec plugin "{plugin.path}" exited with code 255: Session expired (log in)'


async def test_a_long_complaint_is_cut(plugin, make, failure):
    plugin.script("head -c 1000 /dev/zero | tr '\\0' x >&2; exit 1")
    assert str(await failure(make().run())).endswith(": " + "x" * 199 + "…")


async def test_a_huge_complaint_does_not_stop_it(plugin, make):
    plugin.answer(token="s3cr3t")
    plugin.script('head -c 5000000 /dev/zero | tr "\\0" x >&2; cat "$here/answer"')
    assert (await make(timeout=20).run()).authorization == "Bearer s3cr3t"


async def test_an_end_by_a_signal_says_so(plugin, make, failure):
    plugin.script("kill -9 $$")
    assert str(await failure(make().run())).endswith("was killed by signal 9")


async def test_one_that_hangs_is_killed_with_its_children(plugin, make, failure):
    plugin.script('sleep 600 & echo "$!" >> "$here/runs"; wait')
    error = await failure(make(timeout=0.3).run())
    assert type(error) is CredentialPluginFailedError
    assert str(error) == f'x: exec plugin "{plugin.path}" gave no answer within 0.3 s and was killed'
    own, child = plugin.runs
    assert gone(own)
    await eventually(lambda: gone(child) or _is_zombie(child))


async def test_one_that_is_cancelled_is_killed_and_reaped(plugin, make):
    plugin.script("exec sleep 600")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make().run)
        await eventually(lambda: plugin.runs)
        tasks.cancel_scope.cancel()
    await eventually(lambda: gone(plugin.runs[0]))


async def test_waiting_for_one_of_eight_slots_is_no_timeout(plugin, make):
    plugin.answer(token="s3cr3t")
    plugin.script('while [ ! -e "$here/go" ]; do sleep 0.05; done; cat "$here/answer"')
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(make().run)
        await eventually(lambda: len(plugin.runs) == 8)
        for _ in range(4):
            tasks.start_soon(make(timeout=1.0).run)
        await anyio.sleep(1.2)  # longer than their timeout
        assert len(plugin.runs) == 8
        (plugin.folder / "go").touch()
    assert len(plugin.runs) == 12


async def test_endless_output_is_refused(plugin, make, failure):
    plugin.script("head -c 3000000 /dev/zero")
    assert str(await failure(make(timeout=20).run())).endswith("printed more than 1048576 bytes")


async def test_one_that_floods_its_output_is_ended_at_once(plugin, make, failure):
    plugin.script("exec yes")
    with anyio.fail_after(30):
        assert str(await failure(make(timeout=600).run())).endswith("printed more than 1048576 bytes")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "did not print an ExecCredential"),
        ("s3cr3t", "did not print an ExecCredential"),
        ('{"token": "s3cr3t"', "did not print an ExecCredential"),
        ('["s3cr3t"]', "did not print an ExecCredential"),
        ('{"kind": "ExecCredential", "apiVersion": "s3cr3t"}', f"did not print an ExecCredential of {V1}"),
        (
            '{"kind": "Secret", "apiVersion": "%s", "status": {"token": "s3cr3t"}}',
            f"did not print an ExecCredential of {V1}",
        ),
        ('{"kind": "ExecCredential", "apiVersion": "%s"}', "printed neither a token nor a certificate"),
        (
            '{"kind": "ExecCredential", "apiVersion": "%s", "status": {"expirationTimestamp": "s3cr3t"}}',
            "did not print an ExecCredential",
        ),
        (
            '{"kind": "ExecCredential", "apiVersion": "%s", "status": {"clientKeyData": "s3cr3t"}}',
            "printed only one of clientCertificateData and clientKeyData",
        ),
        (
            '{"kind": "ExecCredential", "apiVersion": "%s", "status": {"token": "s3cr3t\\nX: y"}}',
            ": the token holds characters that no token has",
        ),
    ],
)
async def test_garbage_is_refused_and_never_repeated(plugin, make, failure, output, message):
    (plugin.folder / "answer").write_text(output.replace("%s", V1))
    error = await failure(make().run())
    assert type(error) is CredentialPluginFailedError
    assert str(error).endswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"command": ""}, "x: exec: expected a command"),
        ({"api_version": "client.authentication.k8s.io/v1alpha1"}, "apiVersion: expected client.authentication"),
        ({"interactive_mode": "Always"}, "interactiveMode Always needs a terminal"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_run(make, settings, message):
    with pytest.raises(BadContextError, match=message):
        make(**settings)


def _is_zombie(pid):
    # A child of the killed one belongs to process 1, and not every container's process 1 reaps.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
