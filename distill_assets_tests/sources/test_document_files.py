"""A folder of documents: what is read of it, under which ids, and what is told of the rest."""

import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from distill_assets.errors import SourceError
from distill_assets.sources.base import Options, Rules
from distill_assets.sources.catalog import open_source
from distill_assets.sources.document_files import DocumentFolder, find_files, is_folder_of_documents, open_folder
from distill_assets.sources.encodings import decode

NO_LINKS = "it is a symbolic link, and none is followed: copy what it points to into the folder"


def put(root: Path, name: str, content: str | bytes) -> Path:
    """A file below `root`, with its folders."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(root: Path) -> tuple[list[tuple[str, str, str]], dict[str, str]]:
    """The documents of a folder, and what was not read."""
    parts = DocumentFolder(root).read()
    documents = [(document.doc_id, document.title, document.text) for document in parts.documents]
    return documents, dict(parts.unread)


def test_each_format_as_sections(tmp_path: Path) -> None:
    """A format that is read by another's rules has no headings, or its marks in the text."""
    put(tmp_path, "guide/install.md", "# Install\nWords.\n\n## Linux\napt\n\n## Empty\n")
    put(tmp_path, "guide/Old page.HTM", "<title>Old</title><p>Some text<h2>Part 1</h2>More")
    put(tmp_path, "api.rst", "API\n===\n\nCalls\n-----\n\nf(x)\n")
    put(tmp_path, "release-notes_2024.txt", "First.\r\n\r\nSecond.\r\n")
    put(tmp_path, "c#.markdown", "Text\n")
    put(tmp_path, "empty.md", "")
    documents, unread = read(tmp_path)
    assert documents == [
        ("api.rst#calls", "API > Calls", "f(x)"),
        ("c%23.markdown", "c#", "Text"),
        ("release-notes_2024.txt", "release notes 2024", "First.\n\nSecond."),
        ("guide/Old%20page.HTM", "Old", "Some text"),
        ("guide/Old%20page.HTM#part-1", "Old > Part 1", "More"),
        ("guide/install.md", "Install", "Words."),
        ("guide/install.md#linux", "Install > Linux", "apt"),
    ]
    assert unread == {}


def test_as_a_collection(tmp_path: Path) -> None:
    """What the setting names reaches the line: one batch, named after the folder."""
    put(tmp_path, "my docs/a.md", "# A\ntext")
    source = open_source(f"files:{tmp_path / 'my docs'}", Options(), Rules(local_ids=True))
    assert (source.name, source.batches(), source.is_inbox) == ("files:my docs", ["my_docs"], False)
    assert [document.doc_id for document in source.read("my_docs").documents] == ["my_docs/a.md"]


def test_documents_can_be_gone_through_again(tmp_path: Path) -> None:
    """A generator would be empty the second time, and the checks would see a collection without documents."""
    put(tmp_path, "a.md", "# A\ntext")
    put(tmp_path, "b.md", b"\0")
    parts = DocumentFolder(tmp_path).read()
    assert list(parts.documents) == list(parts.documents) != []
    assert len(parts.unread) == 1


def test_hidden_and_installed_files_are_passed_over(tmp_path: Path) -> None:
    """The licences of a thousand packages would drown the documents."""
    for name in (
        ".git/a.md",
        "site/node_modules/x/b.md",
        "__pycache__/c.md",
        ".venv/d.md",
        ".e.md",
        "f.md",
        "venv/g.md",
    ):
        put(tmp_path, name, "text")
    assert find_files(tmp_path).read == ["f.md", "venv/g.md"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link to `..` never ends; one out of the folder reads what nobody meant to search."""
    put(tmp_path, "secret/key.md", "secret")
    root = tmp_path / "docs"
    put(root, "a.md", "text")
    (root / "circle").symlink_to("..", target_is_directory=True)
    (root / "key.md").symlink_to(tmp_path / "secret/key.md")
    (root / "picture.png").symlink_to("nowhere")
    assert read(root) == ([("a.md", "a", "text")], {"circle": NO_LINKS, "key.md": NO_LINKS})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("\ufeffNaïve".encode(), "Naïve"),
        ("Naïve".encode("utf-16"), "Naïve"),
        ("Naïve".encode("utf-16-be"), None),  # without its mark it has NUL bytes, as binary files have
        ("\ufeffNaïve".encode("utf-16-be"), "Naïve"),
        ("Copyright © 2020, café".encode("latin-1"), "Copyright © 2020, café"),
        (
            "W każdym użytkownik może zmienić ustawienia.".encode("cp1250"),
            "W każdym użytkownik może zmienić ustawienia.",
        ),
        ("Привет, это документация.".encode("cp1251"), "Привет, это документация."),
        (
            "# x = 1; y = 2; z = 3\n这是一个中文文档，请修改设置。".encode("gb18030"),
            "# x = 1; y = 2; z = 3\n这是一个中文文档，请修改设置。",
        ),
        ("設定を変更してください。".encode("shift_jis"), "設定を変更してください。"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", None),
        (b"\xff\xfea", None),
        (bytes(range(128, 256)) * 4, None),
        (b"", ""),
    ],
)
def test_encodings(content: bytes, text: str | None) -> None:
    """Letters of the wrong alphabet match no query, and nothing fails."""
    if text is not None:
        assert decode(content) == text
        return
    with pytest.raises(SourceError, match="no text, or in an encoding that is not known"):
        decode(content)


def test_what_is_not_read_is_named_and_counted(tmp_path: Path) -> None:
    """A list of 100,000 names is as good as none; a file that is passed over in silence is missed by nobody."""
    for number in range(25):
        put(tmp_path, f"{number:02}.txt", b"\0")
    put(tmp_path, "a.md", "text")
    put(tmp_path, "b.docx.md", "# Only\n## headings")
    documents, unread = read(tmp_path)
    assert [doc_id for doc_id, _, _ in documents] == ["a.md"]
    assert len(unread) == 22 and list(unread)[19] == "19.txt"
    assert unread["*.txt"] == "5 more, for such reasons" and unread["*.md"] == "1 more, for such reasons"


def test_similar_files_are_counted(tmp_path: Path) -> None:
    """Somebody whose manual is AsciiDoc would search everything but the manual."""
    put(tmp_path, "a.md", "text")
    put(tmp_path, "c.adoc", "= Title")
    put(tmp_path, "d.png", b"\0")
    put(tmp_path, "e.md", "# Only\n## headings")
    unread = read(tmp_path)[1]
    assert unread["*.adoc"].startswith("1 files: expected files that end in .md, ") and "*.png" not in unread
    assert unread["e.md"].startswith("it holds no text but headings")


def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    """One locked file must not hold up the others, nor be missed."""
    put(tmp_path, "a.md", "text")
    os.mkfifo(tmp_path / "pipe.md")
    assert "Not an ordinary file" in read(tmp_path)[1]["pipe.md"]


def test_a_file_that_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of 10 GB would end the process, and no line would say which file it was."""
    monkeypatch.setattr("distill_assets.sources.document_files._MAX_MB", 1)
    put(tmp_path, "a.md", "text")
    put(tmp_path, "log.txt", b"x" * (2**20 + 1))
    assert read(tmp_path)[1] == {"log.txt": "it is larger than 1 MB: split it"}


def test_folders_without_documents(tmp_path: Path) -> None:
    """What is wrong with the folder must be told at once, not by a run over nothing."""
    with pytest.raises(SourceError, match=r"cannot read .*nowhere: No such file.*expected a folder"):
        DocumentFolder(tmp_path / "nowhere").read()
    for number in range(1000):
        (tmp_path / f"{number}.PNG").touch()
    (tmp_path / "Makefile").touch()
    with pytest.raises(
        SourceError,
        match=r"no document in .* found 1,000 \.png \(not read\), 1 without ending \(not read\); put documents there",
    ):
        DocumentFolder(tmp_path).read()
    assert not is_folder_of_documents(tmp_path)
    put(tmp_path, "sub/a.txt", b"\0")
    assert is_folder_of_documents(tmp_path)
    with pytest.raises(SourceError, match=r"no text in .*: sub/a\.txt: it is no text"):
        list(DocumentFolder(tmp_path).read().documents)


def test_the_fingerprint_is_that_of_names_and_bytes(tmp_path: Path) -> None:
    """With times in it, every checkout would be a new collection; without names, a moved file would keep its old ids."""
    path = put(tmp_path, "a.md", "text")
    put(tmp_path, "image.png", "1")
    reader = open_folder(str(tmp_path), Options())
    before, look = reader.fingerprint(), reader.look()
    os.utime(path, (1, 1))
    put(tmp_path, "image.png", "2")
    assert reader.fingerprint() == before and reader.look() != look
    put(tmp_path, "a.md", "other")
    changed = reader.fingerprint()
    path.rename(tmp_path / "b.md")
    assert len({before, changed, reader.fingerprint()}) == 3
    assert DocumentFolder(tmp_path / "nowhere").fingerprint() != before


def test_many_files_in_flat_memory(tmp_path: Path) -> None:
    """All texts at once are gigabytes for a large wiki; what grows with the files may be their names alone."""
    for number in range(2_000):
        put(tmp_path, f"{number // 500}/{number}.md", f"# Page {number}\n" + "word " * 800)
    parts = DocumentFolder(tmp_path).read()
    tracemalloc.start()
    num_characters = sum(len(document.text) for document in parts.documents)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_characters == 2_000 * 3_999 and peak < 2.5e6


def _docx() -> bytes:
    """A Word file with a heading and a paragraph, written by hand."""
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    types = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    files = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{types}.document.main+xml"/>'
        f'<Override PartName="/word/styles.xml" ContentType="{types}.styles+xml"/></Types>',
        "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        f'<Relationship Id="a" Type="{office}/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/_rels/document.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        f'<Relationship Id="b" Type="{office}/styles" Target="styles.xml"/></Relationships>',
        "word/styles.xml": f'<w:styles xmlns:w="{word}"><w:style w:type="paragraph" w:styleId="Heading1"><w:name w:val="heading 1"/>'
        "</w:style></w:styles>",
        "word/document.xml": f'<w:document xmlns:w="{word}"><w:body><w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Travel'
        "</w:t></w:r></w:p><w:p><w:r><w:t>Keep the receipts.</w:t></w:r></w:p></w:body></w:document>",
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def _pdf() -> bytes:
    """A page with one line of text, written by hand; readers mend the missing table of places."""
    page = b"BT /F1 12 Tf 72 720 Td (# of days: Keep the receipts.) Tj ET"
    return b"".join(
        (
            b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n",
            b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>endobj\n",
            b"4 0 obj<</Length %d>>stream\n%s\nendstream endobj\n" % (len(page), page),
            b"5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        )
    )


def test_office_files_by_the_extra(tmp_path: Path) -> None:
    """A heading that is lost in conversion would leave a section without title; a `#` of a PDF is no heading."""
    pytest.importorskip("markitdown")
    put(tmp_path, "a.docx", _docx())
    put(tmp_path, "b.pdf", _pdf())
    put(tmp_path, "c.pdf", b"%PDF-1.4 damaged")
    put(tmp_path, "d.docx", b"no zip")
    documents, unread = read(tmp_path)
    assert documents == [
        ("a.docx", "Travel", "Keep the receipts."),
        ("b.pdf", "b", "# of days: Keep the receipts."),
    ]
    assert sorted(unread) == ["c.pdf", "d.docx"] and "cannot be converted" in unread["d.docx"]


def test_without_the_extra_office_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shelf of PDFs that is not read must not look like an empty one; with the extra the batch is another one."""
    put(tmp_path, "a.pdf", _pdf())
    put(tmp_path, "b.md", "text")
    monkeypatch.setattr("distill_assets.sources.document_files._converter_version", lambda: "1.0")
    with_extra = DocumentFolder(tmp_path).fingerprint()
    monkeypatch.setattr("distill_assets.sources.document_files._converter_version", lambda: "")
    assert read(tmp_path)[1] == {"a.pdf": 'to read .pdf: pip install "distill_assets[documents]"'}
    assert DocumentFolder(tmp_path).fingerprint() != with_extra
