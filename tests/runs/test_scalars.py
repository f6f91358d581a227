from etils import epath

from memcomp.runs.scalars import scalar_writer


def test_scalars_go_to_a_bucket(bucket):
    with scalar_writer(epath.Path("gs://bucket/run/metrics")) as writer:
        writer.add_scalar("loss_of_the_run", 1.5, 1)
    (name,) = bucket
    assert name.startswith("/bucket/run/metrics/events")
    assert b"loss_of_the_run" in bucket[name].getvalue()
