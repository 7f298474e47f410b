from squeezetune.data.sources.source import Entry, list_entries, list_some


def test_list_some():
    assert list_some(["a"]) == "a"
    assert list_some(list("abcde")) == "a, b, c, d, e"
    assert list_some(["x"] * 10_000) == "x, x, x, x, x and 9,995 more"


def test_entries_are_sorted_with_their_columns():
    entries = [Entry("b.jpg", "x", 2, "g"), Entry("c.jpg", "y", 0), Entry("a.jpg", "x", 1, "h")]
    listing = list_entries(iter(entries), {"d.jpg": "no class"}, ("a note",))
    assert listing.files == ("a.jpg", "b.jpg", "c.jpg")
    assert listing.columns.labels == ("x", "x", "y")
    assert listing.columns.parts == (1, 2, 0)
    assert listing.columns.groups == ("h", "g", "")
    assert (listing.refused, listing.notes) == ({"d.jpg": "no class"}, ("a note",))


def test_columns_that_say_nothing_are_left_out():
    columns = list_entries([Entry("a.jpg", "x"), Entry("b.jpg", "y")], {}).columns
    assert columns.parts is None
    assert columns.groups is None
    assert list_entries([], {}).files == ()
