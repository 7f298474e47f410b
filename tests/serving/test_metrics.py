from squeezetune.serving.metrics import Histogram, Metrics


def test_a_histogram_counts_up_to_each_end():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.add(value)
    assert list(histogram.write("x")) == [
        'x_bucket{le="1.0"} 2', 'x_bucket{le="2.0"} 3', 'x_bucket{le="+Inf"} 4', "x_sum 12.000000", "x_count 4",
    ]  # fmt: skip


def test_every_figure_has_its_head_and_its_value():
    metrics = Metrics()
    metrics.add_request("/predict", 200, 0.2)
    metrics.add_request("other", 404, 9.0)
    metrics.add_images(3, 1)
    metrics.add_batch(4)
    metrics.add_change("refused")
    lines = metrics.write("abc", 7).splitlines()
    names = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert names == {line.split()[2] for line in lines if line.startswith("# HELP")}
    assert {
        'squeezetune_requests_total{path="/predict",status="200"} 1',
        'squeezetune_requests_total{path="other",status="404"} 1',
        'squeezetune_images_total{outcome="predicted"} 3',
        'squeezetune_images_total{outcome="refused"} 1',
        'squeezetune_model_changes_total{outcome="refused"} 1',
        "squeezetune_predict_seconds_count 1",
        'squeezetune_batch_images_bucket{le="4.0"} 1',
        "squeezetune_waiting_images 7",
        'squeezetune_model_info{version="abc"} 1',
    } <= set(lines)
