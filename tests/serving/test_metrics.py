from squeezetune.serving.observability import ServerMetrics


def test_every_figure_has_its_head_and_its_value():
    metrics = ServerMetrics()
    metrics.add_request("/predict", 200, 0.2)
    metrics.add_request("other", 404, 9.0)
    metrics.add_images(3, 1)
    metrics.add_batch(4)
    metrics.add_change("refused")
    lines = metrics.write("abc", 7).decode().splitlines()
    names = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert names == {line.split()[2] for line in lines if line.startswith("# HELP")}
    assert {
        'squeezetune_requests_total{path="/predict",status="200"} 1.0',
        'squeezetune_requests_total{path="other",status="404"} 1.0',
        'squeezetune_images_total{outcome="predicted"} 3.0',
        'squeezetune_images_total{outcome="refused"} 1.0',
        'squeezetune_model_changes_total{outcome="refused"} 1.0',
        "squeezetune_predict_seconds_count 1.0",
        'squeezetune_batch_images_bucket{le="4.0"} 1.0',
        "squeezetune_waiting_images 7.0",
        'squeezetune_model_info{version="abc"} 1.0',
    } <= set(lines)


def test_two_servers_in_one_process_count_for_themselves():
    busy, idle = ServerMetrics(), ServerMetrics()
    busy.add_images(5, 0)
    assert 'squeezetune_images_total{outcome="predicted"} 5.0' in busy.write("a", 0).decode()
    assert "5.0" not in [line.split()[-1] for line in idle.write("b", 0).decode().splitlines()]
