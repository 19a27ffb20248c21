import datetime
import json

import numpy
import pytest
from finetuned import GrpoSpec, InvalidArgument, JobSpec, LoraSpec, ScheduleSpec, SftSpec, _spec, specs
from finetuned.v1 import spec_pb2


def draft(given=None, **keywords):
    return _spec.make_draft(given, keywords)


def violations(*args, **keywords):
    with pytest.raises(InvalidArgument) as error:
        draft(*args, **keywords)
    return {v.field: v.description for v in error.value.violations}


def test_dataclasses_dicts_and_keywords_give_the_same_job():
    one = draft(model="smollm2", data="datasets/d", lora=LoraSpec(rank=8), schedule=ScheduleSpec(max_steps=3))
    two = draft(
        {
            "base_model": "models/smollm2",
            "dataset": "datasets/d",
            "sft": {},
            "lora": {"rank": 8},
            "schedule": {"max_steps": 3},
        }
    )
    three = draft(
        JobSpec(
            base_model="models/smollm2",
            dataset="datasets/d",
            sft=SftSpec(),
            lora=LoraSpec(rank=8),
            schedule={"max_steps": 3},
        )
    )
    assert one.job == two.job == three.job
    assert one.job.spec.base_model == "models/smollm2" and one.method == "sft" and one.data == {"dataset": "datasets/d"}


def test_keywords_win_over_the_job():
    assert draft({"lora": {"rank": 8}, "seed": 1}, seed=2).job.spec.seed == 2


def test_unset_fields_stay_unset_so_that_the_daemon_chooses():
    spec = draft(model="m", optimizer={"kind": "adamw"}).job.spec
    assert not spec.optimizer.HasField("learning_rate") and not spec.HasField("seed") and not spec.HasField("lora")
    assert draft(optimizer={"learning_rate": 0}).job.spec.optimizer.HasField("learning_rate")


def test_misspelt_fields_get_a_proposal_with_their_path():
    wrong = violations(rank=8, lora={"rnk": 8}, schedule={"max_step": 1}, modle="x", beta=1)
    assert wrong["rank"].endswith("did you mean lora.rank?")
    assert wrong["lora.rnk"].endswith('did you mean "rank"?')
    assert wrong["schedule.max_step"].endswith('did you mean "max_steps"?')
    assert wrong["modle"].endswith('did you mean "model"?')
    assert "dpo.beta or kto.beta or grpo.beta" in wrong["beta"]


def test_wrong_types_are_named_with_the_value():
    wrong = violations(
        lora={"rank": "16", "use_dora": 1, "target_modules": "q_proj"},
        schedule={"max_steps": 2.5},
        checkpoints={"every": "soon"},
        optimizer=3,
        base_model=7,
    )
    assert wrong == {
        "lora.rank": "must be a number, got '16'",
        "lora.use_dora": "must be True or False, got 1",
        "lora.target_modules": "must be a list, got 'q_proj'",
        "schedule.max_steps": "must be an integer, got 2.5",
        "checkpoints.every": 'must be a duration such as "90s", "15m", "2h" or "1d", got \'soon\'',
        "optimizer": "a job is described by a JobSpec, a dict, or the path of a job file, not by a int",
        "base_model": "must be a string, got 7",
    }


def test_two_methods_are_refused():
    assert "sft, dpo" in violations(sft={}, dpo={})["method"]


def test_durations_times_maps_and_numpy_numbers():
    d = draft(
        checkpoints={"every": "15m"},
        lora={"rank": numpy.int64(4), "rank_pattern": {"q_proj": 2}},
        optimizer={"learning_rate": numpy.float32(0.5)},
        ttl=datetime.timedelta(days=1),
        scheduling={"not_before": "2026-01-01T00:00:00Z", "max_run_duration": 90},
    )
    spec, job = d.job.spec, d.job
    assert (
        spec.checkpoints.every.seconds == 900 and spec.lora.rank == 4 and dict(spec.lora.rank_pattern) == {"q_proj": 2}
    )
    assert spec.optimizer.learning_rate == 0.5 and job.ttl.seconds == 86400
    assert job.scheduling.not_before.seconds == 1767225600 and job.scheduling.max_run_duration.seconds == 90


def test_job_files_find_their_data_beside_them(tmp_path):
    (tmp_path / "job.json").write_text(
        json.dumps({"name": "j", "spec": {"base_model": "models/m", "dataset": "rows.jsonl", "dpo": {"beta": 0.2}}})
    )
    (tmp_path / "job.yaml").write_text("name: j\nbase_model: models/m\ndataset: rows.jsonl\ndpo: {beta: 0.2}\n")
    for name in ("job.json", "job.yaml"):
        d = draft(tmp_path / name)
        assert d.job_id == "j" and d.method == "dpo" and d.data == {"dataset": tmp_path / "rows.jsonl"}
        assert d.job.spec.dpo.beta == 0.2
    with pytest.raises(InvalidArgument, match=r"cannot read .*none\.yaml"):
        draft(tmp_path / "none.yaml")


def test_rewards_name_what_the_client_serves():
    from finetuned import reward

    @reward(weight=0.5)
    def short(completion):
        return -len(completion)

    grpo = draft(grpo=GrpoSpec(group_size=4), rewards=[short]).job.spec.grpo
    assert list(grpo.remote_reward.reward_names) == ["short"] and list(grpo.remote_reward.weights) == [0.5]
    assert grpo.group_size == 4
    assert "needs grpo" in violations(rewards=[short])["rewards"]


def test_there_is_a_dataclass_field_for_every_field_of_the_api():
    for message in spec_pb2.DESCRIPTOR.message_types_by_name.values():
        fields = specs.__dict__[message.name].__dataclass_fields__
        assert list(fields) == [f.name for f in message.fields]
    assert specs.SpecFields.__annotations__.keys() == {f.name for f in spec_pb2.JobSpec.DESCRIPTOR.fields}
