from squeezetune.data.sources.paths import ClassAndPart, number_places


def test_equal_places_have_one_number():
    places = number_places(
        [
            ClassAndPart("b"),
            ClassAndPart("a", 2),
            "no class",
            ClassAndPart("b"),
            ClassAndPart("a", 0),
        ]
    )
    assert places.kinds == (ClassAndPart("b"), ClassAndPart("a", 2), ClassAndPart("a", 0))
    assert places.numbers.tolist() == [0, 1, -1, 0, 2]
    assert places.is_known.tolist() == [True, True, False, True, True]
    assert places.reasons == {2: "no class"}


def test_no_image_has_no_place():
    places = number_places([])
    assert places.kinds == ()
    assert places.numbers.shape == (0,)
