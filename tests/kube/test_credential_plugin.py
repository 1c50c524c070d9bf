"""Exec plugins: how they are run, their input, and all their failures."""

import base64
import os
import time
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

    def made(cluster=None, timeout=60.0, clock=time.time, where="x", **settings):
        command = {"command": str(plugin.path), "api_version": V1, "interactive_mode": "Never"} | settings
        info = ConnectionInfo(
            where=where,
            cluster=cluster or ClusterEntry(server="https://c"),
            folder=str(plugin.folder),
            user=User(exec=Exec(**command)),
        )
        return CredentialPlugin(info, timeout=timeout, clock=clock)

    return made


def gone(pid):
    """Return whether a process has ended and been reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_token_with_its_expiry_is_read(plugin, make):
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


async def test_the_beta_version_is_supported(plugin, make):
    plugin.answer("v1beta1", token="s3cr3t")
    await make(api_version="client.authentication.k8s.io/v1beta1").run()
    assert plugin.information["apiVersion"] == "client.authentication.k8s.io/v1beta1"


async def test_arguments_and_variables_reach_it_and_its_input_is_closed(plugin, make, monkeypatch):
    monkeypatch.setenv("INHERITED", "yes")
    plugin.script('cat; echo "$# $1 $2 $OWN $INHERITED" > "$here/said"; cat "$here/answer"')
    plugin.answer(token="s3cr3t")
    await make(args=("get token", "-x"), env=(Variable(name="OWN", value="s3cr3t"),)).run()
    assert (plugin.folder / "said").read_text() == "2 get token -x s3cr3t yes\n"


async def test_a_name_with_an_equals_sign_ends_there_as_in_go(plugin, make):
    plugin.answer(token="s3cr3t")
    plugin.script('echo "$A" > "$here/said"; cat "$here/answer"')
    await make(env=(Variable(name="A=B", value="c"),)).run()
    assert (plugin.folder / "said").read_text() == "B=c\n"


async def test_the_beta_version_needs_no_interactive_mode(plugin, make):
    plugin.answer("v1beta1", token="s3cr3t")
    await make(api_version="client.authentication.k8s.io/v1beta1", interactive_mode="").run()


async def test_a_variable_that_cannot_be_passed_is_named(make, failure):
    error = await failure(make(env=(Variable(name="A", value="b\0c"),)).run())
    assert str(error).endswith("failed to start: its arguments or variables contain a null byte")


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


async def test_a_relative_command_is_relative_to_the_kubeconfig(plugin, make):
    plugin.answer(token="s3cr3t")
    assert (await make(command="./plugin").run()).authorization == "Bearer s3cr3t"


async def test_a_bare_command_is_searched_only_in_path(plugin, make, monkeypatch, failure):
    plugin.answer(token="s3cr3t")
    monkeypatch.chdir(plugin.folder)
    assert type(await failure(make(command="plugin").run())) is CredentialPluginMissingError
    monkeypatch.setenv("PATH", f"{plugin.folder}:{os.environ['PATH']}")
    assert (await make(command="plugin").run()).authorization == "Bearer s3cr3t"


async def test_an_absent_command_without_hint_names_the_path(plugin, make, failure):
    error = await failure(make(command="aws-that-is-not").run())
    assert str(error) == 'x: exec plugin "aws-that-is-not" is not installed: it is not in gpuid\'s PATH'
    plugin.path.unlink()
    error = await failure(make().run())
    assert str(error) == f'x: exec plugin "{plugin.path}" is not installed: there is no {plugin.path}'


async def test_an_absent_command_is_named_with_its_hint(make, failure):
    error = await failure(make(command="aws-that-is-not", install_hint="Install it:\n\n  brew install aws").run())
    assert type(error) is CredentialPluginMissingError
    assert str(error) == 'x: exec plugin "aws-that-is-not" is not installed: Install it: brew install aws'


async def test_a_plugin_installed_later_is_found(plugin, make, failure):
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
    assert str(error) == f'x: exec plugin "{plugin.path}" failed to start: no such file or directory'


async def test_a_long_error_message_is_cut(plugin, make, failure):
    plugin.script("head -c 1000 /dev/zero | tr '\\0' x >&2; exit 1")
    assert str(await failure(make().run())).endswith(": " + "x" * 199 + "…")


async def test_a_huge_error_message_does_not_block_it(plugin, make):
    plugin.answer(token="s3cr3t")
    plugin.script('head -c 5000000 /dev/zero | tr "\\0" x >&2; cat "$here/answer"')
    assert (await make(timeout=20).run()).authorization == "Bearer s3cr3t"


async def test_termination_by_a_signal_is_reported(plugin, make, failure):
    plugin.script("kill -9 $$")
    assert str(await failure(make().run())).endswith("was killed by signal 9")


async def test_a_hanging_plugin_is_killed_with_its_children(plugin, make, failure):
    plugin.script('sleep 600 & echo "$!" >> "$here/runs"; wait')
    error = await failure(make(timeout=0.3).run())
    assert type(error) is CredentialPluginFailedError
    assert str(error) == f'x: exec plugin "{plugin.path}" timed out after 0.3 s and was killed'
    own, child = plugin.runs
    assert gone(own)
    await eventually(lambda: gone(child) or _is_zombie(child))


async def test_a_hanging_plugin_with_an_error_message_is_quoted(plugin, make, failure):
    words = "Opening https://login.example.com/device, enter code ABCD to sign in"
    plugin.script(f'echo "{words}" >&2; sleep 600')
    error = str(await failure(make(timeout=0.5).run()))
    assert error.endswith(f"timed out after 0.5 s and was killed: {words}")


async def test_a_failure_does_not_wait_for_children_holding_output(plugin, make, failure):
    plugin.script('sleep 600 & echo "ERROR: you are not logged in" >&2; exit 1')
    assert str(await failure(make().run())).endswith("exited with code 1: ERROR: you are not logged in")


async def test_a_plugin_printing_only_an_error_is_quoted(plugin, make, failure):
    plugin.script('echo "error: not logged in" >&2')
    assert str(await failure(make().run())).endswith("printed no output: error: not logged in")


async def test_a_cancelled_plugin_is_killed_and_reaped(plugin, make):
    plugin.script("exec sleep 600")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make().run)
        await eventually(lambda: plugin.runs)
        tasks.cancel_scope.cancel()
    await eventually(lambda: gone(plugin.runs[0]))


async def test_waiting_for_a_slot_does_not_count_as_timeout(plugin, make):
    plugin.answer(token="s3cr3t")
    proven = make()
    await proven.run()  # one whose last run succeeded may be run by all at the same time
    plugin.script('while [ ! -e "$here/go" ]; do sleep 0.05; done; cat "$here/answer"')
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(make().run)
        await eventually(lambda: len(plugin.runs) == 1 + 8)
        for _ in range(4):
            tasks.start_soon(make(timeout=1.0).run)
        await anyio.sleep(1.2)  # longer than their timeout
        assert len(plugin.runs) == 1 + 8
        (plugin.folder / "go").touch()
    assert len(plugin.runs) == 1 + 12


async def test_hanging_plugins_do_not_delay_recently_successful_ones(plugin, make):
    plugin.answer(token="s3cr3t")
    proven = make()
    await proven.run()
    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(make(command="/bin/sleep", args=(f"{600 + number}",)).run)
        await anyio.sleep(0.5)
        with anyio.fail_after(4):  # less than a slot may be held
            assert (await proven.run()).authorization == "Bearer s3cr3t"
        tasks.cancel_scope.cancel()


async def test_hanging_plugins_do_not_delay_new_ones_for_long(plugin, make):
    plugin.answer(token="s3cr3t")
    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(make(command="/bin/sleep", args=(f"{600 + number}",)).run)
        await anyio.sleep(0.2)
        with anyio.fail_after(20):
            assert (await make().run()).authorization == "Bearer s3cr3t"
        tasks.cancel_scope.cancel()


async def test_endless_output_is_refused(plugin, make, failure):
    plugin.script("head -c 3000000 /dev/zero")
    assert str(await failure(make(timeout=20).run())).endswith("printed more than 1048576 bytes")


async def test_a_plugin_flooding_its_output_is_killed_immediately(plugin, make, failure):
    plugin.script("exec yes")
    with anyio.fail_after(30):
        assert str(await failure(make(timeout=600).run())).endswith("printed more than 1048576 bytes")


HEAD = f'"kind": "ExecCredential", "apiVersion": "{V1}"'
WRONG = "printed an invalid ExecCredential: "
EXPIRY = f"{WRONG}status.expirationTimestamp: expected RFC 3339, such as 2030-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "printed no output"),
        (" \n\t ", "printed neither JSON nor YAML"),
        ("# a comment\n", "printed no output"),
        ("s3cr3t", "did not print an ExecCredential"),
        ('{"token": "s3cr3t"', "printed neither JSON nor YAML"),
        ('["s3cr3t"]', "did not print an ExecCredential"),
        ("[" * 100_000, "printed neither JSON nor YAML"),
        ('{HEAD, "status": {"token": "s3cr3t"}} s3cr3t', "printed neither JSON nor YAML"),
        ('{"kind": "ExecCredential"}', f"printed no apiVersion, the kubeconfig says {V1}"),
        (
            '{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1beta1"}',
            f"printed client.authentication.k8s.io/v1beta1, the kubeconfig says {V1}",
        ),
        (
            '{"kind": "ExecCredential", "apiVersion": "s3cr3t"}',
            f"printed another apiVersion, the kubeconfig says {V1}",
        ),
        ('{"kind": "Secret", "apiVersion": "VERSION"}', "did not print an ExecCredential"),
        ("{HEAD}", "printed an ExecCredential without a status"),
        ('{HEAD, "status": null}', "printed an ExecCredential without a status"),
        ('{HEAD, "status": {}}', "printed neither a token nor a certificate"),
        ('{HEAD, "status": {"Token": "s3cr3t"}}', "printed neither a token nor a certificate"),
        ('{HEAD, "status": []}', f"{WRONG}status: expected a mapping, got a list"),
        ('{HEAD, "status": {"token": 12}}', f"{WRONG}status.token: expected text, got a number; put it in quotes"),
        *(
            ('{HEAD, "status": {"token": "s3cr3t", "expirationTimestamp": "WHEN"}}'.replace("WHEN", when), EXPIRY)
            for when in (
                "",
                "s3cr3t",
                "2030-01-01",
                "2030-01-01T00:00:00",
                "2030-01-01 00:00:00Z",
                "2030-01-01t00:00:00z",
                "2030-13-01T00:00:00Z",
                "2030-01-01T00:00:00+0000",
            )
        ),
        (
            '{HEAD, "status": {"token": "s3cr3t", "expirationTimestamp": 1700000000}}',
            f"{WRONG}status.expirationTimestamp: expected text, got a number; put it in quotes",
        ),
        (
            '{HEAD, "status": {"clientKeyData": "s3cr3t"}}',
            "printed only one of clientCertificateData and clientKeyData",
        ),
        ('{HEAD, "status": {"token": "s3cr3t\\nX: y"}}', f"{WRONG}status.token: contains a line break"),
        ('{HEAD, "status": {"token": "s3cr3t\\n"}}', f"{WRONG}status.token: contains a line break"),
    ],
)
async def test_an_invalid_answer_names_the_field_without_quoting(plugin, make, failure, output, message):
    (plugin.folder / "answer").write_text(output.replace("HEAD", HEAD).replace("VERSION", V1))
    error = await failure(make().run())
    assert type(error) is CredentialPluginFailedError
    assert str(error) == f'x: exec plugin "{plugin.path}" {message}'


@pytest.mark.parametrize(
    ("output", "expires"),
    [
        ('{HEAD, "status": {"token": "s3cr3t", "clientCertificateData": null, "clientKeyData": null}}', None),
        ('{HEAD, "status": {"token": "s3cr3t", "expirationTimestamp": null}}', None),
        ('{HEAD, "status": {"token": "s3cr3t", "expirationTimestamp": "0001-01-01T00:00:00Z"}}', None),
        (
            '{HEAD, "status": {"token": "s3cr3t", "expirationTimestamp": "2027-01-15T09:00:00.123456789+01:00"}}',
            1_800_000_000.123456,
        ),
        ('{"apiVersion": "VERSION", "status": {"token": "s3cr3t"}}', None),
        ('{"kind": null, "apiVersion": "VERSION", "spec": null, "status": {"token": "s3cr3t"}}', None),
        ('\ufeff{HEAD, "status": {"token": "s3cr3t"}}', None),
        (
            f"apiVersion: {V1}\nkind: ExecCredential\nstatus:\n  token: s3cr3t\n"
            "  expirationTimestamp: 2027-01-15T08:00:00Z\n---\nfoo: [",
            1_800_000_000,
        ),
        ('\n\n{HEAD, "status": {"token": " s3cr3t\\t"}}\n\n', None),
    ],
)
async def test_an_answer_is_interpreted_as_by_kubectl(plugin, make, output, expires):
    (plugin.folder / "answer").write_text(output.replace("HEAD", HEAD).replace("VERSION", V1))
    found = await make().run()
    assert (found.authorization, found.expires) == ("Bearer s3cr3t", expires)


class TestLastWords:
    """The line of a failing plugin's output that gives the reason."""

    @pytest.mark.parametrize(
        ("complaint", "told"),
        [
            (
                "Traceback (most recent call last):\n  File x, line 27, in <module>\n    sys.exit(main())\n"
                "botocore.exceptions.TokenRetrievalError: Error when retrieving token from sso: Token has expired\n",
                "botocore.exceptions.TokenRetrievalError: Error when retrieving token from sso: Token has expired",
            ),
            (
                "urllib3/__init__.py:35: NotOpenSSLWarning: urllib3 v2 only supports OpenSSL 1.1.1+\n  warnings.warn(\n"
                "ERROR: (gcloud.config.config-helper) You do not have an active account.\nPlease run:\n\n"
                "  $ gcloud auth login\n\nto obtain new credentials.\n",
                "ERROR: (gcloud.config.config-helper) You do not have an active account.",
            ),
            ("\n  Session   expired\t(log in)\nUsage: aws\n", "Session expired (log in)"),
            ("one\ntwo\n\n", "two"),
            ("E1125 19:00:00.1 1 get.go:20] no session\nsee the manual\n", "E1125 19:00:00.1 1 get.go:20] no session"),
            ("Unable to locate credentials. You can configure\n", "Unable to locate credentials. You can configure"),
            ("\x1b[31mError:\x1b[0m no", "[31mError:[0m no"),
            ("error: token eyJhbGciOi.eyJzM2NyM3Q.c2ln is old", "error: token *** is old"),
            ("", ""),
        ],
    )
    async def test_the_reason_is_the_last_plausible_line(self, plugin, make, failure, complaint, told):
        (plugin.folder / "complaint").write_text(complaint)
        plugin.script('echo s3cr3t; cat "$here/complaint" >&2; exit 3')
        error = await failure(make().run())
        ending = f": {told}" if told else ""
        assert str(error) == f'x: exec plugin "{plugin.path}" exited with code 3{ending}'

    async def test_the_end_of_a_flood_is_kept(self, plugin, make, failure):
        plugin.script("head -c 3000000 /dev/zero | tr '\\0' 'x' >&2; echo >&2; echo 'error: at last' >&2; exit 1")
        assert str(await failure(make(timeout=20).run())).endswith("exited with code 1: error: at last")


class TestPace:
    """A failing plugin is run less and less often, once for all clusters."""

    async def test_the_pauses_between_runs_grow_to_three_minutes(self, plugin, make, failure, clock):
        plugin.script("echo no session >&2; exit 1")
        one = make(clock=clock)
        runs = []
        for second in range(1200):
            before = len(plugin.runs)
            if second in (0, *range(5, 1200, 5)):
                await failure(one.run())
            if len(plugin.runs) > before:
                runs.append(second)
            clock.advance(1)
        assert runs == [0, 5, 15, 35, 75, 155, 315, 495, 675, 855, 1035]

    async def test_the_same_command_fails_for_all_that_name_it(self, plugin, make, failure, clock):
        plugin.script("echo no session >&2; exit 1")
        many = [make(clock=clock, where=f"context {number}") for number in range(100)]
        texts = []

        async def run(one):
            texts.append(str(await failure(one.run())))

        for expected in (1, 1, 2):
            async with anyio.create_task_group() as tasks:
                for one in many:
                    tasks.start_soon(run, one)
            assert len(plugin.runs) == expected
            clock.advance(3)
        assert f'context 7: exec plugin "{plugin.path}" exited with code 1: no session' in texts

    async def test_other_arguments_or_variables_are_another_plugin(self, plugin, make, failure, clock):
        plugin.script("exit 1")
        one, two = make(clock=clock), make(clock=clock, args=("x",))
        three = make(clock=clock, env=(Variable(name="A", value="b"),))
        for plugin_ in (one, two, three):
            await failure(plugin_.run())
        assert len(plugin.runs) == 3

    @pytest.mark.parametrize(
        "other",
        [
            {"server": "https://other"},
            {"server": "https://c", "tls_server_name": "other"},
            {"server": "https://c", "certificate_authority_data": "b3RoZXI="},
            {"server": "https://c", "proxy_url": "http://other"},
            {
                "server": "https://c",
                "extensions": (Extension(name="client.authentication.k8s.io/exec", extension={"audience": "other"}),),
            },
        ],
    )
    async def test_a_plugin_given_its_cluster_fails_only_for_it(self, plugin, make, failure, clock, other):
        plugin.answer(token="s3cr3t")
        plugin.script('case "$KUBERNETES_EXEC_INFO" in *other*|*b3RoZXI*) cat "$here/answer" ;; *) exit 1 ;; esac')
        bad = make(clock=clock, provide_cluster_info=True)
        good = make(ClusterEntry(**other), clock=clock, provide_cluster_info=True)
        await failure(bad.run())
        assert (await good.run()).authorization == "Bearer s3cr3t"
        assert len(plugin.runs) == 2
        await failure(make(clock=clock, provide_cluster_info=True, where="y").run())  # the same cluster: not run again
        assert len(plugin.runs) == 2

    async def test_a_plugin_without_cluster_info_fails_for_all(self, plugin, make, failure, clock):
        plugin.script("exit 1")
        await failure(make(clock=clock).run())
        error = await failure(make(ClusterEntry(server="https://other"), clock=clock, where="y").run())
        assert str(error).startswith("y: exec plugin")
        assert len(plugin.runs) == 1

    async def test_one_success_lets_all_run_immediately(self, plugin, make, failure, clock):
        plugin.script("exit 1")
        one, two = make(clock=clock), make(clock=clock)
        for pause in (5, 10, 20, 40):
            await failure(one.run())
            clock.advance(pause)
        plugin.answer(token="s3cr3t")
        plugin.script('cat "$here/answer"')
        await one.run()
        await two.run()
        assert len(plugin.runs) == 6

    async def test_each_kubeconfig_change_allows_one_immediate_run(self, plugin, make, failure, clock):
        plugin.script("exit 1")
        one, two = make(clock=clock), make(clock=clock)
        await failure(one.run())
        for expected in (2, 2):
            for each in (one, two):
                each.reset("changed")
                await failure(each.run())
            assert len(plugin.runs) == expected

    async def test_a_clock_set_back_does_not_block_runs(self, plugin, make, failure, clock):
        plugin.script("exit 1")
        one = make(clock=clock)
        await failure(one.run())
        clock.advance(-3600)
        await failure(one.run())
        assert len(plugin.runs) == 2


@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"])
class TestChildren:
    """A plugin is finished when it exits, not when its output closes."""

    async def test_an_agent_holding_stderr_open_delays_nothing(self, plugin, make):
        plugin.answer(token="s3cr3t")
        plugin.script('sleep 600 >/dev/null </dev/null & cat "$here/answer"')
        with anyio.fail_after(20):
            assert (await make().run()).authorization == "Bearer s3cr3t"

    async def test_an_agent_holding_stdout_open_delays_little(self, plugin, make):
        plugin.answer(token="s3cr3t")
        plugin.script('sleep 600 </dev/null & cat "$here/answer"')
        with anyio.fail_after(20):
            assert (await make().run()).authorization == "Bearer s3cr3t"

    async def test_a_child_that_prints_the_answer_later_is_waited_for(self, plugin, make):
        plugin.answer(token="s3cr3t")
        plugin.script('(sleep 0.3; cat "$here/answer") & exit 0')
        assert (await make().run()).authorization == "Bearer s3cr3t"

    async def test_a_failure_with_a_running_agent_keeps_its_message(self, plugin, make, failure):
        plugin.script('sleep 600 </dev/null >/dev/null & echo "error: no" >&2; exit 4')
        with anyio.fail_after(20):
            assert str(await failure(make().run())).endswith("exited with code 4: error: no")

    async def test_no_file_descriptor_leaks(self, plugin, make, failure):
        plugin.answer(token="s3cr3t")
        await make().run()
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        await make().run()
        (plugin.folder / "answer").unlink()
        await failure(make(timeout=5).run())
        plugin.path.write_text("#!/no/such/interpreter\n")
        await failure(make(args=("other",)).run())
        # Fewer, for those of the tests before; later, for a loop closes the pipes of an ended process in its next turn.
        await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)  # noqa: PTH208


class TestCertificate:
    async def test_renewal_is_due_before_the_certificate_expires(self, plugin, make, authority):
        pair = authority.issue("short").pem
        plugin.answer(clientCertificateData=pair["chain"], clientKeyData=pair["key"])
        found = await make().run()
        assert found.expires is not None
        assert found.expires == found.lapse.ends
        plugin.answer(
            clientCertificateData=pair["chain"], clientKeyData=pair["key"], expirationTimestamp="2020-01-01T00:00:00Z"
        )
        again = await make().run()
        assert again.expires is not None
        assert again.expires < found.expires
        assert again.lapse == found.lapse


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"command": ""}, "x: exec: expected a command"),
        ({"api_version": "client.authentication.k8s.io/v1alpha1"}, "apiVersion: expected client.authentication"),
        ({"interactive_mode": "Always"}, "interactiveMode Always is not supported"),
        ({"interactive_mode": ""}, f"expected interactiveMode, such as Never; {V1} requires it"),
        ({"interactive_mode": "never"}, "interactiveMode: expected Never or IfAvailable or Always"),
        ({"env": (Variable(name="A", value="b"), Variable(value="c"))}, "env: expected a name for each variable"),
        ({"env": (Variable(name="=A", value="b"),)}, "env: expected a name for each variable"),
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
