"""Jobs with the options of the retrieval loss: stopped and gone on with they end with the same bits."""

import pytest
import yaml

EVERYTHING = {
    "log_q": "streaming",
    "frequency": {"buckets": 2_048},
    "negatives": {"uniform": 40, "popular": 20, "queue": 2, "queue_after": 3, "hard": 4},
    "normalise": True,
    "learn_temperature": True,
}


@pytest.mark.parametrize(
    "options", [EVERYTHING, pytest.param({"loss": "full_softmax"}, marks=pytest.mark.long)], ids=["all", "full_softmax"]
)
def test_stopped_and_gone_on_with_it_ends_with_the_same_bits(options, job_file, tools, headrace, tmp_path, monkeypatch):
    document = yaml.safe_load(job_file.read_text())
    document["retrieval"].update(options)
    document["retrieval"]["batch_size"] = 512
    document["training"] = {"steps_per_call": 3, "checkpoint_every": 2}
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(document))
    runs = [tmp_path / "undisturbed", tmp_path / "stopped"]
    for run in runs:
        assert headrace("data", "prepare", job, "--run-dir", run)[0] == 0
    code, said = headrace("train", "retrieval", job, "--run-dir", runs[0])
    assert code == 0, said

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # after the epoch's last steps, which no checkpoint holds
        patched.setattr("trainer.stages.retrieval.evaluate", stop)
        assert headrace("train", "retrieval", job, "--run-dir", runs[1])[0] == 130
    code, said = headrace("train", "retrieval", job, "--run-dir", runs[1])
    assert code == 0, said
    assert "going on from step" in said
    tools.assert_same_bits(*runs, "retrieval")
    _, variables = tools.variables_of(runs[0], "retrieval")
    state = [name for name in variables if "retrieval_loss" in name and "optimizer" not in name]
    assert bool(state) == (options is EVERYTHING), "what is remembered is in the checkpoint"


@pytest.mark.parametrize(
    ("setting", "named"),
    [("log_q=streaming", "retrieval.log_q=streaming"), ("negatives.queue=2", "retrieval.negatives.queue")],
)
def test_what_parameter_servers_cannot_keep_in_step_is_refused(setting, named, job_file, headrace, tmp_path):
    words = ["--set", f"retrieval.{setting}", "--set", "training.strategy=parameter_server"]
    code, said = headrace("run", job_file, "--run-dir", tmp_path / "run", *words)
    assert code == 2
    assert named in said
    assert "steps do not wait for each other" in said
