"""Encoders and objectives in a job: refused where they do not fit, trained, planned, served."""

import json

import pytest

from embeddings.planner.tables import Dense
from foundation.errors import UserError
from retrieval.config import RetrievalConfig
from trainer.encoder_cost import encoder_cost
from trainer.job import load_job
from trainer.job_tables import workloads_of
from trainer.pipeline import run_stages
from trainer.run_directory import RunDirectory
from trainer.tpu_job import check_tpu_job
from trainer.workspace import Workspace

INTERESTS = ["retrieval.encoder=multi_interest", "retrieval.multi_interest={interests: 2, length: 50}"]
OBJECTIVES = "retrieval.objectives=[{name: click}, {name: watched, label: watch_seconds, transform: log1p, weight: 2}]"
SASREC = [
    "retrieval.encoder=attention",
    "retrieval.tower=identity",
    "retrieval.query_features=[history_item_id]",
    "retrieval.item_features=[item_id]",
    "retrieval.dim=8",
]


def sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.mark.parametrize("encoder", ["attention", "multi_interest"])
def test_a_history_longer_than_the_encoders_positions_is_refused(job_file, encoder):
    words = [f"retrieval.encoder={encoder}", f"retrieval.{encoder}.length=20"]
    with pytest.raises(UserError, match=rf"retrieval\.{encoder}\.length: found 20, fewer than inputs\.history_length"):
        load_job(job_file, words)
    assert load_job(job_file, [*words, "inputs.history_length=20"]).retrieval.longest_history == 20
    load_job(job_file, [words[1]])  # of an encoder that is not used


def test_heads_that_do_not_divide_the_units_are_refused(job_file):
    with pytest.raises(UserError, match=r"attention\.heads: found 3 heads of 8 units; give a divisor"):
        load_job(job_file, ["retrieval.encoder=attention", "retrieval.attention.heads=3"])


def test_a_tpu_reads_bags_alone(job_file):
    with pytest.raises(UserError) as refused:
        check_tpu_job(load_job(job_file, ["retrieval.embedding_optimizer=Adagrad", "retrieval.encoder=gru"]), cores=8)
    assert refused.value.remedy.startswith("It wants --set retrieval.encoder=bag (")


def test_an_objectives_label_that_the_log_lacks_is_named(job_file, headrace, tmp_path):
    words = (job_file, "--run-dir", tmp_path / "run", *sets("retrieval.objectives=[{name: a, label: watch_second}]"))
    assert headrace("data", "prepare", *words)[0] == 0
    code, said = headrace("train", "retrieval", *words)
    assert code == 2
    assert "retrieval.objectives: objective 'a' wants the label 'watch_second', which the log lacks" in said
    assert "did you mean 'watch_seconds'?" in said


@pytest.mark.long
def test_a_job_with_interests_and_objectives_is_trained(job_file, headrace, tmp_path):
    run = tmp_path / "run"
    words = (job_file, "--run-dir", run, *sets(*INTERESTS, OBJECTIVES))
    for stage in (("data", "prepare"), ("train", "retrieval")):
        code, said = headrace(*stage, *words)
        assert code == 0, said
    points = [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    by_step: dict[int, dict[str, float]] = {}
    for point in points:
        by_step.setdefault(point["step"], {})[point["metric"]] = point["value"]
    told = [losses for losses in by_step.values() if "loss" in losses]
    assert told
    for losses in told:
        assert losses["loss"] == pytest.approx((losses["click"] + 2 * losses["watched"]) / 3, rel=1e-4)


def test_the_planner_counts_what_the_encoder_reads(job_file, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run_stages(Workspace(load_job(job_file), run, "x"), ["data"])

    def planned(*settings):
        return workloads_of(Workspace(load_job(job_file, settings), run, "x"))["retrieval"]

    bag, gru = planned(), planned("retrieval.encoder=gru")
    assert gru.dense.flops > bag.dense.flops
    assert [table.name for table in gru.tables] == [table.name for table in bag.tables]
    ids = planned(*SASREC)
    assert [table.name for table in ids.tables] == ["item_id"]
    assert ids.dense.layers > 0, "the encoder's; there are no towers"


@pytest.mark.long
@pytest.mark.parametrize("options", [INTERESTS, SASREC, ["retrieval.encoder=gru"]])
def test_a_job_is_run_to_its_report(job_file, headrace, tmp_path, options):
    run = tmp_path / "run"
    code, said = headrace("run", job_file, "--run-dir", run, *sets(*options))
    assert code == 0, said
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["retrieval"]["two_tower"]["ndcg@20"]["value"] > 0
    assert metrics["funnel"]["funnel"]


class TestCost:
    """Of 10 watched items of 24 floats."""

    def of(self, **options) -> tuple[int, Dense]:
        return encoder_cost(RetrievalConfig.model_validate({"embedding_dim": 8, **options}), 24, 10.0)

    def test_of_a_gru_is_its_two_kernels_an_item(self):
        width, dense = self.of(encoder="gru", gru={"units": 16})
        assert width == 16
        assert dense.flops == 6 * 10 * (24 * 48 + 16 * 48)
        assert dense.parameters == 24 * 48 + 16 * 48 + 2 * 48

    def test_of_attention_is_its_layers_an_item_and_its_products_a_pair(self):
        width, dense = self.of(encoder="attention", attention={"blocks": 2})
        assert width == 8
        assert dense.flops == 6 * 10 * (24 * 8 + 2 * 5 * 8 * 8) + 12 * 2 * 8 * 100

    def test_of_interests_is_who_belongs_to_which(self):
        width, dense = self.of(encoder="multi_interest", multi_interest={"attention_units": 32, "interests": 3})
        assert width == 8
        assert dense.flops == 6 * 10 * (24 * 8 + 8 * 32 + 32 * 3)
