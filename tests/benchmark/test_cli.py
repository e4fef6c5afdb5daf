import re
import shutil
import urllib.request

import pytest
import safetensors.torch
import torch

from commands import press_ctrl_c, pruneboard, pruneboard_here, start_pruneboard, wait_until, write_suite
from pruneboard.benchmark.assets import tensors_digest
from pruneboard.benchmark.cli.running import RunOptions, run_jobs
from pruneboard.benchmark.errors import SuiteError
from pruneboard.benchmark.store import RunStore
from pruneboard.benchmark.suites import expand, load_suite

SMALL = {"digits_vgg": ["filters"]}
RUN_ALONE = "pruneboard.benchmark.cli run small.toml --workers 0"
TIMES = ["score_seconds", "score_peak_bytes", "job_seconds", "time_utc"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a small suite that was run to its end by two workers, and what the run printed."""
    folder = tmp_path_factory.mktemp("finished")
    write_suite(
        folder,
        models={"digits_vgg": ["filters"], "digits_vit": ["heads"]},
        criteria=["random", "magnitude", "taylor", "bn_scale"],
        seeds=[0, 1],
    )
    done = pruneboard("run", "small.toml", "--workers", 2, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_run_ends_with_every_cell(finished):
    folder, printed = finished
    rows = RunStore(folder / "runs").read("small")

    assert "Small: 16 jobs on digits, 0 done before, 16 to run." in printed
    assert "Ended: 14 ok, 2 unsupported. Rows are in runs." in printed
    assert rows["key"].nunique() == 16
    assert len(rows) == 14 * 2 * 3 + 2
    assert set(rows.loc[rows["criterion"].eq("bn_scale") & rows["model"].eq("digits_vit"), "status"]) == {"unsupported"}


def test_a_second_run_does_nothing_and_fresh_repeats(finished):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*.parquet")}
    again = pruneboard_here("run", "small.toml", cwd=folder)
    assert "16 done before, 0 to run" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*.parquet")}
    part = pruneboard_here(
        "run", "small.toml", "--fresh", "--workers", 0, "--model", "digits_vgg", "--criterion", "magnitude", cwd=folder
    )
    assert "2 jobs on digits, 0 done before, 2 to run" in part.stdout
    changed = [p for p in before if p.stat().st_mtime_ns != before[p]]

    assert len(changed) == 2


def test_one_process_and_two_workers_give_equal_rows(finished, tmp_path):
    folder, _ = finished
    done = pruneboard_here("run", folder / "small.toml", "--workers", 0, "--out", "alone", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    together, alone = (RunStore(f).read("small").drop(columns=TIMES) for f in (folder / "runs", tmp_path / "alone"))

    assert alone.equals(together)


def test_table_publish_and_site(finished):
    folder, _ = finished
    table = pruneboard_here("table", "small.toml", "--publish", cwd=folder)
    assert table.returncode == 0, table.stderr
    for word in ("measured here", "random", "magnitude", "taylor", "needs a batch norm"):
        assert word in table.stdout
    assert (folder / "results" / "small" / "taylor.csv").is_file()
    shutil.move(folder / "runs", folder / "elsewhere")
    published = pruneboard_here("table", "small.toml", cwd=folder)
    shutil.move(folder / "elsewhere", folder / "runs")
    assert "published in results/" in published.stdout
    ranking = re.compile(r"taylor\s.*")

    assert ranking.findall(published.stdout) == ranking.findall(table.stdout)


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_continues(tmp_path):
    write_suite(tmp_path, models=SMALL, criteria=["taylor", "integrated_gradients"], seeds=list(range(30)))
    process = start_pruneboard("run", "small.toml", "--workers", 2, cwd=tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("runs/small/[!.]*.parquet"))) >= 2)
    press_ctrl_c(process)
    printed, errors = process.communicate(timeout=30)
    kept = set(tmp_path.glob("runs/small/[!.]*.parquet"))
    assert process.returncode == 130, errors
    assert "Finished jobs are kept; the same command continues." in printed
    assert "Traceback" not in printed + errors
    assert 2 <= len(kept) < 60
    before = {path: path.read_bytes() for path in kept}
    done = pruneboard("run", "small.toml", cwd=tmp_path)

    assert f"{len(kept)} done before, {60 - len(kept)} to run" in done.stdout
    assert all(path.read_bytes() == content for path, content in before.items())
    assert RunStore(tmp_path / "runs").read("small")["key"].nunique() == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "digit"], "there is no suite `digit`. Did you mean `digits`?"),
        (["table", "digit"], "there is no suite `digit`. Did you mean `digits`?"),
        (
            ["run", "digits", "--model", "digits_vg"],
            "no model in suite `digits`: `digits_vg`. Did you mean `digits_vgg`",
        ),
        (["run", "digits", "--criterion", "tailor"], "no criterion in suite `digits`: `tailor`. Did you mean `taylor`"),
        (["show", "tailor"], "there is no criterion, model or suite `tailor`. Did you mean `taylor`"),
        (["run", "broken.toml"], "must be valid TOML"),
        (["run", "nowhere.toml"], "must be readable"),
        (["run", "unknown.toml"], "there is no criterion `tailor`. Did you mean `taylor`"),
        (["run", "greedy.toml"], "10000"),
        (
            ["run", "digits", "--device", "abacus"],
            "`--device` must be a usable device such as cpu or cuda:0, got `abacus`",
        ),
        (["run", "digits", "--out", "broken.toml/runs"], "must be writable"),
        (
            ["table", "digits"],
            "there are none of suite `digits` in `runs` or `results`; make them with `pruneboard run",
        ),
        (["train", "cifar_resnet20"], "recipe"),
        (["site", "build", "--out", "broken.toml"], "broken.toml"),
    ],
)
def test_bad_input_is_one_message_and_status_two(tmp_path, arguments, message):
    (tmp_path / "broken.toml").write_text("name = [")
    write_suite(tmp_path, models=SMALL, criteria=["tailor"], name="unknown")
    write_suite(tmp_path, models=SMALL, criteria=["taylor"], shots=[10000], name="greedy")
    done = pruneboard_here(*arguments, cwd=tmp_path)

    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def photographs(folder):
    """Write a suite that needs the photographs of CIFAR-10, but no weights that are not shipped."""
    return write_suite(folder, models=SMALL, criteria=["random"], datasets=["cifar10-lossless", "cifar10"])


def test_missing_data_is_one_message_that_says_where_it_looked_and_how_to_get_it(tmp_path):
    nowhere = {"PRUNEBOARD_DATA": str(tmp_path), "PRUNEBOARD_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    nowhere["HF_ENDPOINT"] = "http://127.0.0.1:9"
    done = pruneboard("run", photographs(tmp_path), cwd=tmp_path, env=nowhere)

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for word in (
        "cifar10-lossless",
        "cifar10",
        str(tmp_path),
        str(tmp_path / "cache"),
        "PRUNEBOARD_DATA",
        "uoft-cs/cifar10",
    ):
        assert word in done.stderr
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_damaged_data_set_is_named(tmp_path):
    folder = tmp_path / "data" / "cifar10-lossless"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}-00000-of-00001.parquet").write_bytes(b"PAR1 and then nothing")
    data = {"PRUNEBOARD_DATA": str(tmp_path / "data")}
    done = pruneboard_here("run", photographs(tmp_path), cwd=tmp_path, env=data)

    assert done.returncode == 2
    assert "sha256" in done.stderr
    assert str(folder / "train-00000-of-00001.parquet") in done.stderr or str(folder / "test-00000") in done.stderr


def test_wrong_and_damaged_weights_are_named_before_any_job_starts(tmp_path):
    write_suite(tmp_path, models={"cifar_resnet20": ["filters"]}, criteria=["magnitude"])
    file = tmp_path / "weights" / "cifar_resnet20.safetensors"
    file.parent.mkdir()
    shapes = {"linear.weight": torch.zeros(3, 3)}
    for content in (b"", b"not safetensors", safetensors.torch.save(shapes)):
        file.write_bytes(content)
        done = pruneboard_here("run", "small.toml", cwd=tmp_path, env={"PRUNEBOARD_WEIGHTS": str(file.parent)})
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert str(file) in done.stderr
        assert "sha256" in done.stderr
    file.unlink()
    cache = {
        "PRUNEBOARD_WEIGHTS": str(file.parent),
        "PRUNEBOARD_CACHE": str(tmp_path / "cache"),
        "HTTPS_PROXY": "127.0.0.1:9",
    }
    done = pruneboard_here("run", "small.toml", cwd=tmp_path, env=cache)

    assert done.returncode == 2
    assert "PRUNEBOARD_WEIGHTS" in done.stderr
    assert "https://github.com/akamaster/pytorch_resnet_cifar10" in done.stderr
    assert not list(tmp_path.glob("runs/small/*"))


@pytest.mark.parametrize("option", [["--workers", "-1"], ["--no-such-option"]])
def test_bad_options_are_usage_errors(tmp_path, option):
    done = pruneboard_here("run", "digits", *option, cwd=tmp_path)

    assert done.returncode == 2
    assert "Usage" in done.stderr


def test_a_damaged_job_file_is_named_by_table_and_repaired_by_run(finished, tmp_path):
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "copy")
    victim = sorted((tmp_path / "copy" / "runs" / "small").glob("*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:-30])
    table = pruneboard_here("table", "small.toml", cwd=tmp_path / "copy")
    assert table.returncode == 2
    assert f"`runs/small/{victim.name}` is damaged" in table.stderr
    again = pruneboard_here("run", "small.toml", "--workers", 0, cwd=tmp_path / "copy")

    assert "15 done before, 1 to run" in again.stdout
    assert pruneboard_here("table", "small.toml", cwd=tmp_path / "copy").returncode == 0


def test_a_title_that_looks_like_markup_is_printed_as_it_is(tmp_path):
    title = "[red]x[/] [/bold] :smile:"
    path = write_suite(tmp_path, models=SMALL, criteria=["magnitude"])
    path.write_text(path.read_text().replace('"Small"', f'"{title}"'))
    run = pruneboard_here("run", "small.toml", "--workers", 0, cwd=tmp_path)
    table = pruneboard_here("table", "small.toml", cwd=tmp_path)

    assert run.returncode == table.returncode == 0, run.stderr + table.stderr
    assert f"{title}: 1 jobs on digits" in run.stdout
    assert f"{title}: 1 job, measured here" in table.stdout


def test_a_granularity_that_a_model_lacks_is_refused_before_any_job_starts(tmp_path):
    jobs = expand(load_suite(write_suite(tmp_path, models={"digits_vgg": ["heads"]}, criteria=["magnitude"])))
    options = RunOptions(device="cpu", n_workers=0, out=tmp_path / "runs", fresh=False)
    message = r"model `digits_vgg` must be pruned by some of \('filters',\), got 'heads' in suite `small`; correct the"
    with pytest.raises(SuiteError, match=message):
        run_jobs("small.toml", jobs, options)

    assert not list(tmp_path.glob("runs/small/*"))


def test_list_and_show_know_everything(tmp_path):
    for kind, words in {
        "criteria": ["lrp_epsilon_plus", "magnitude_l2", "attribution", "needs"],
        "models": ["cifar_resnet56", "digits_vit", "neurons, heads"],
        "suites": ["cifar10", "digits", "440"],
        "datasets": ["cifar10-lossless", "digits", "imagenette"],
    }.items():
        done = pruneboard_here("list", kind, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert all(word in done.stdout for word in words), done.stdout
    for name, words in {
        "taylor_logit": ['target="logit"', "arxiv.org/abs/1611.06440", "sha256"],
        "cifar_resnet20": ["BSD-2-Clause", "e69504a11fca90aff7e0c93356aca0dbf529359a8ecc096f8ce4c376b4c1825f"],
        "digits": ["one_shot, global ranking", "440"],
    }.items():
        done = pruneboard_here("show", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert all(word in done.stdout for word in words), done.stdout


def test_every_command_has_help(tmp_path):
    done = pruneboard_here("--help", cwd=tmp_path)
    commands = ["run", "tune", "list", "show", "table", "claims", "train", "site"]
    assert all(command in done.stdout for command in commands)
    for command in [*([c] for c in commands), ["site", "build"], ["site", "serve"]]:
        done = pruneboard_here(*command, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert "Usage" in done.stdout


def test_train_repeats_a_recipe_and_replaces_nothing_unasked(tmp_path):
    done = pruneboard_here("train", "digits_vgg", "--out", "digits_vgg.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    accuracy = float(re.search(r"test accuracy (0\.\d+)", done.stdout)[1])
    again = pruneboard_here("train", "digits_vgg", "--out", "digits_vgg.safetensors", cwd=tmp_path)

    assert accuracy >= 0.97
    assert again.returncode == 2
    assert "digits_vgg.safetensors" in again.stderr
    assert "--overwrite" in again.stderr


@pytest.fixture
def quick_moons(tmp_path, monkeypatch):
    """A folder, and in it a model `quick_moons` like `toy_moons` that is trained for three epochs only."""
    file = tmp_path / "quick.py"
    file.write_text(
        "import dataclasses\n"
        "from pruneboard.models.toy_mlp import toy_moons\n"
        "recipe = dataclasses.replace(toy_moons.recipe, epochs=3)\n"
        "quick_moons = dataclasses.replace(toy_moons, name='quick_moons', recipe=recipe)\n"
        "del toy_moons\n"
    )
    monkeypatch.setenv("PRUNEBOARD_PLUGINS", str(file))
    return tmp_path


def test_networks_that_are_not_shipped_are_trained_once_and_compared_with_published_numbers(quick_moons):
    tmp_path = quick_moons
    path = write_suite(
        tmp_path,
        models={"quick_moons": ["neurons"]},
        criteria=["magnitude", "gradient"],
        seeds=[0, 1],
        rates=[0.0, 0.3334],
        datasets=["toy_moons"],
    )
    path.write_text(path.read_text().replace('"train"', '"reference"').replace('"test"', '"train"'))
    header = "model,granularity,criterion,shots,rate,top1,source"
    (tmp_path / "small.published.csv").write_text(f"{header}\nquick_moons,neurons,gradient,2,0.3334,0.123,a paper\n")
    env = {"PRUNEBOARD_CACHE": str(tmp_path / "cache")}
    done = pruneboard_here("run", "small.toml", "--workers", 0, cwd=tmp_path, env=env)
    (weights,) = (tmp_path / "cache" / "weights").iterdir()
    before = weights.stat().st_mtime_ns
    again = pruneboard_here("run", "small.toml", "--workers", 0, cwd=tmp_path, env=env)
    rows = RunStore(tmp_path / "runs").read("small")

    assert done.returncode == again.returncode == 0, done.stderr + again.stderr
    assert "quick_moons has no weights on this machine yet; they are trained once and kept." in done.stdout
    assert "Small: 4 jobs on toy_moons, 0 done before, 4 to run." in done.stdout
    assert "trained" not in again.stdout
    assert "4 done before, 0 to run" in again.stdout
    assert weights.stat().st_mtime_ns == before
    assert re.fullmatch(r"quick_moons-[0-9a-f]{16}\.safetensors", weights.name)
    assert set(rows["weights_digest"]) == {tensors_digest(safetensors.torch.load_file(weights))}
    assert set(rows["n_units"]) == {3000}
    assert set(rows["n_units_removed"]) == {0, 1000}
    assert set(rows["n_images"]) == {1000}

    table = pruneboard_here("table", "small.toml", cwd=tmp_path)
    assert "quick_moons, 0.3334 of the neurons removed; accuracy in % by shots" in table.stdout
    assert "*12.30" in table.stdout


def test_commands_say_where_weights_that_are_made_here_lie(tmp_path):
    env = {"PRUNEBOARD_CACHE": str(tmp_path / "cache")}
    shown = pruneboard_here("show", "toy_spiral", cwd=tmp_path, env=env)
    listed = pruneboard_here("list", "suites", cwd=tmp_path, env=env)
    suite = pruneboard_here("show", "toy", cwd=tmp_path, env=env)

    assert str(tmp_path / "cache" / "weights" / "toy_spiral-") in "".join(shown.stdout.split())
    assert "trained at first use" in shown.stdout
    for text in (listed.stdout, suite.stdout):
        assert "toy_moons, toy_circles, toy_spiral" in text


def test_the_site_is_built_from_a_run_and_served(finished):
    folder, _ = finished
    one = ("--model", "digits_vgg", "--criterion", "magnitude", "--workers", 0)
    assert pruneboard_here("run", "digits", *one, cwd=folder).returncode == 0
    built = pruneboard_here("site", "build", "--runs", "runs", "--local", cwd=folder)
    assert built.returncode == 0, built.stderr
    assert built.stdout.strip() == "_site/index.html"
    (said,) = (line for line in built.stderr.splitlines() if "small" in line)
    assert said == "note: rows of `small` are not shown, because no suite is called so; name its file by `--suite`."
    options = ("--runs", "runs", "--local", "--suite", "small.toml")
    with start_pruneboard("site", "serve", *options, "--port", 0, cwd=folder) as server:
        address = server.stdout.readline().split()[0]
        page, own = (
            urllib.request.urlopen(f"{address}suites/{name}.html", timeout=60).read().decode()
            for name in ("digits", "small")
        )
        press_ctrl_c(server)
        server.communicate(timeout=60)

    assert "magnitude" in page
    assert "measured here" in page
    assert "taylor" in own
    assert server.returncode == 0
