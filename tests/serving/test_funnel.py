"""The funnel obeys its rules, narrows stage by stage, and says the models' own scores."""

from dataclasses import replace

import numpy as np
import pytest

from foundation.errors import UserError
from foundation.tensors import to_tensors
from inputs.ragged import Ragged
from serving.config import FunnelConfig
from serving.funnel import Funnel


def timeless(document: dict) -> dict:
    return {**document, "stages": [{**stage, "milliseconds": 0} for stage in document["stages"]]}


def seen_by(served, user) -> set:
    position = served.space.users.position_of([user])
    return set(served.space.items.raw_ids(np.unique(served.histories.all(position).values)))


def shown(answer) -> list:
    return [item.item for item in answer.items]


class TestRules:
    def test_nothing_seen_for_any_user(self, funnel, served):
        for user in served.space.users.ids.to_pylist():
            items = shown(funnel.recommend(user))
            assert len(items) == len(set(items)) == served.card.postranking.slate_size
            assert not set(items) & seen_by(served, user)

    def test_nothing_blocked_and_the_rest_moves_up(self, funnel, known_user):
        before = funnel.recommend(known_user, size=7)
        blocked = shown(before)[:3]
        after = funnel.recommend(known_user, blocked_items=[blocked[0], str(blocked[1]), blocked[2]])
        assert len(after.items) == 7
        assert not set(shown(after)) & set(blocked)
        assert after.left_out["blocked"] == 3

    def test_an_item_blocked_twice_counts_once(self, funnel, known_user):
        item = shown(funnel.recommend(known_user))[0]
        assert funnel.recommend(known_user, blocked_items=[item, str(item)]).left_out["blocked"] == 1

    @pytest.mark.parametrize("size", [1, 4, 25])
    def test_as_many_as_asked(self, funnel, known_user, size):
        assert len(funnel.recommend(known_user, size=size).items) == size

    def test_more_than_the_funnel_lets_through_gives_what_there_is(self, funnel, served, known_user):
        assert len(funnel.recommend(known_user, size=500).items) == served.card.funnel.rank

    def test_nothing_left_is_an_empty_slate(self, funnel, served, known_user):
        answer = funnel.recommend(known_user, blocked_items=served.space.items.ids.to_pylist())
        assert answer.items == []
        assert [stage.items for stage in answer.stages] == [1, 0, 0, 0]

    def test_left_out_counts_what_was_seen(self, funnel, served, known_user):
        assert funnel.recommend(known_user).left_out["seen"] == len(seen_by(served, known_user)) > 0

    def test_seen_items_may_return_where_the_job_says_so(self, served, known_user):
        lenient = Funnel.load(served.run)
        rules = served.card.postranking.model_copy(update={"exclude_seen": False})
        lenient.card = replace(served.card, postranking=rules, funnel=FunnelConfig(retrieve=200, rank=200))
        answer = lenient.recommend(known_user, size=500)
        assert set(shown(answer)) == set(served.space.items.ids.to_pylist())
        assert answer.left_out["seen"] == 0


class TestStages:
    def test_counts_narrow(self, funnel, served, known_user):
        stages = {stage.stage: stage for stage in funnel.recommend(known_user).stages}
        assert list(stages) == ["query", "retrieval", "ranking", "postranking"]
        counts = [stages[name].items for name in ("retrieval", "ranking", "postranking")]
        assert counts == [served.card.funnel.retrieve, served.card.funnel.rank, served.card.postranking.slate_size]
        assert all(stage.milliseconds >= 0 for stage in stages.values())

    def test_a_catalogue_smaller_than_the_funnel_passes_whole(self, served, known_user):
        wide = Funnel.load(served.run)
        wide.card = replace(served.card, funnel=FunnelConfig(retrieve=1_000, rank=1_000))
        left = len(served.space.items) - len(seen_by(served, known_user))
        answer = wide.recommend(known_user, size=1_000)
        assert [stage.items for stage in answer.stages] == [1, left, left, left]


class TestScores:
    def scores(self, funnel, user) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        answer = funnel.recommend(user)
        items = funnel.space.items.position_of(shown(answer))
        return items, {name: np.array([i.scores[name] for i in answer.items]) for name in answer.items[0].scores}

    def inputs(self, served, user):
        position = served.space.users.position_of([user])
        history = served.histories.before(position, np.array([served.card.now]), served.card.history_length)
        return to_tensors(served.space.query_inputs(position, history))

    def test_similarity_is_the_towers_inner_product(self, funnel, served, known_user):
        items, scores = self.scores(funnel, known_user)
        query = served.two_tower.embed_queries(self.inputs(served, known_user)).numpy()[0]
        inputs = to_tensors(served.space.item_inputs(items, served.card.now))
        np.testing.assert_allclose(served.vectors[items], served.two_tower.embed_items(inputs), atol=1e-5)
        np.testing.assert_allclose(scores["similarity"], served.vectors[items] @ query, atol=1e-5)

    def test_predictions_and_value_are_the_rankers(self, funnel, served, known_user):
        items, scores = self.scores(funnel, known_user)
        item_inputs = to_tensors(served.space.item_inputs(items, served.card.now))
        splits = np.array([0, len(items)])
        predictions = served.ranker.predict(self.inputs(served, known_user), item_inputs, splits)
        assert set(scores) == {"similarity", *predictions, "value", "score"}
        for name, values in {**predictions, "value": served.ranker.value(predictions)}.items():
            np.testing.assert_allclose(scores[name], values, rtol=1e-5, atol=1e-5)

    def test_the_score_is_log_value_plus_weighted_similarity(self, funnel, served, known_user):
        _, scores = self.scores(funnel, known_user)
        expected = np.log(scores["value"]) + served.card.funnel.retrieval_weight * scores["similarity"]
        np.testing.assert_allclose(scores["score"], expected, atol=1e-4)

    def test_the_best_by_retrieval_and_score_come_through(self, served, known_user):
        """With diversity and freshness off, the slate is the top of a full sort by hand."""
        plain = Funnel.load(served.run)
        off = served.card.postranking.model_copy(update={"diversity": 0.0, "freshness_weight": 0.0})
        plain.card = replace(served.card, postranking=off)
        inputs = self.inputs(served, known_user)
        similarity = served.vectors @ served.two_tower.embed_queries(inputs).numpy()[0]
        seen = served.space.items.position_of(sorted(seen_by(served, known_user)))
        allowed = np.setdiff1d(np.arange(len(served.space.items)), seen)
        retrieved = allowed[np.argsort(-similarity[allowed], kind="stable")][: served.card.funnel.retrieve]
        item_inputs = to_tensors(served.space.item_inputs(retrieved, served.card.now))
        predictions = served.ranker.predict(inputs, item_inputs, np.array([0, len(retrieved)]))
        score = np.log(served.ranker.value(predictions).numpy()) + similarity[retrieved]
        best = retrieved[np.argsort(-score, kind="stable")][: off.slate_size]
        assert shown(plain.recommend(known_user)) == served.space.items.raw_ids(best)


class TestWhoAsks:
    def test_the_same_call_gives_the_same_slate(self, funnel, known_user):
        first, second = (timeless(funnel.recommend(known_user).document()) for _ in range(2))
        assert first == second
        assert timeless(funnel.recommend(str(known_user)).document()) == first

    def test_a_newcomer_gets_a_slate_and_has_no_history(self, funnel):
        answer = funnel.recommend(None)
        assert answer.user is None
        assert answer.history == []
        assert len(answer.items) == 7
        assert answer.left_out["seen"] == 0

    def test_the_history_shown_is_the_latest(self, funnel, served, known_user):
        position = served.space.users.position_of([known_user])
        latest = served.histories.all(position).values[-5:]
        assert funnel.recommend(known_user).history == [served.space.item_words(int(item)) for item in latest]

    @pytest.mark.parametrize("user", [999_999, "nobody", "", 2**70])
    def test_an_unknown_user_is_told(self, funnel, user):
        with pytest.raises(UserError) as caught:
            funnel.recommend(user)
        assert repr(user) in caught.value.message
        assert "not in the log" in caught.value.message
        assert "newcomer" in caught.value.remedy

    def test_an_unknown_blocked_item_is_told(self, funnel, known_user):
        with pytest.raises(UserError, match="blocked item 'x' is not in the catalogue"):
            funnel.recommend(known_user, blocked_items=[funnel.space.items.ids[0].as_py(), "x"])


def test_a_slate_for_the_evaluation_knows_only_what_it_is_given(funnel, served):
    nothing = np.empty(0, np.int64)
    early = served.card.now - 5 * 86_400
    first = funnel.answer(1, nothing, nothing, early, size=5)
    history = np.array([3, 4, 5])
    second = funnel.answer(1, history, history, early, size=5)
    assert len(first.slate.items) == len(second.slate.items) == 5
    assert not set(second.slate.items.tolist()) & {3, 4, 5}
    query = served.space.query_inputs(np.array([1]), Ragged(history, np.array([0, 3])))
    similarity = served.vectors[second.slate.items] @ served.two_tower.embed_queries(to_tensors(query)).numpy()[0]
    np.testing.assert_allclose(second.scores["similarity"], similarity, atol=1e-5)
