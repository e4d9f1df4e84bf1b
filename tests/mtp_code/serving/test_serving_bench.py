import pytest

from mtp_code.serving import bench


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_that_is_missing_fails_the_measurement(served, monkeypatch, is_streamed):
    port = int(served.url.rsplit(":", 1)[1])
    monkeypatch.setattr(bench, "_MODEL", served.service.model_name)
    ours = bench._ask_all(port, ["a", "b", "c"], 4, num_clients=2, is_streamed=is_streamed)
    assert len(ours) == 3
    monkeypatch.setattr(bench, "_MODEL", "another")
    with pytest.raises(AssertionError, match="a client failed"):
        bench._ask_all(port, ["a", "b", "c"], 4, num_clients=2, is_streamed=is_streamed)
