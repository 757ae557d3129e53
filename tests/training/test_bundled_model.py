"""The bundled model as it lies in the repository: size, format, and whether it finds things."""

from pathlib import Path

import pytest

from m3_core import M3Encoder, Representation
from m3_core.folder import find_model
from m3_core.scoring import Weights
from m3_training.evaluate import all_scores

FOLDER = find_model("m3-tiny")
CASES = {
    "de": (
        ("Wie füge ich eine Fußnote ein?", "Wo ändere ich den Zeilenabstand?", "Wer schrieb den Faust?"),
        (
            "Um eine Fußnote einzufügen, setzen Sie den Cursor an die Stelle und wählen Einfügen, Fußnote.",
            "Den Abstand der Zeilen legen Sie im Dialog Absatz auf der Registerkarte Einzüge fest.",
            "Johann Wolfgang von Goethe arbeitete fast sechzig Jahre lang an seiner Tragödie Faust.",
        ),
    ),
    "en": (
        ("How can I delete a table row?", "capital of Australia", "Why is the sky blue?"),
        (
            "Select the row of the table that you want to remove and press the Delete key.",
            "Canberra was chosen as the seat of the Australian government and is the country's capital city.",
            "Air scatters the blue part of sunlight more than the red part, which gives the sky its colour.",
        ),
    ),
    "ja": (
        ("日本で一番高い山は何ですか", "表を挿入する方法", "源氏物語の作者は誰か"),
        (
            "富士山は標高3776メートルの日本で最も高い山であり、静岡県と山梨県にまたがる。",
            "文書に表を挿入するには、メニューから「表」を選び、行と列の数を指定します。",
            "源氏物語は平安時代中期に紫式部によって書かれた長編の物語である。",
        ),
    ),
    "ko": (
        ("한글은 누가 만들었는가?", "대한민국의 수도는 어디인가?", "그림을 삽입하는 방법"),
        (
            "훈민정음, 곧 한글은 조선의 세종대왕이 1443년에 창제하여 1446년에 반포한 문자이다.",
            "서울특별시는 대한민국의 수도이자 최대 도시로 한강을 끼고 있다.",
            "문서에 그림을 삽입하려면 삽입 메뉴에서 그림을 선택하고 파일을 고르십시오.",
        ),
    ),
    "zh": (
        ("中国最长的河流是哪条?", "如何插入图片?", "红楼梦的作者是谁?"),
        (
            "长江全长约六千三百公里,是中国也是亚洲最长的河流。",
            "要在文档中插入图片,请选择“插入”菜单中的“图像”,然后选择文件。",
            "《红楼梦》是清代作家曹雪芹创作的章回体长篇小说。",
        ),
    ),
    "fa": (
        ("پایتخت ایران کدام شهر است؟", "شاهنامه را چه کسی سروده است؟", "بلندترین کوه ایران چیست؟"),
        (
            "تهران بزرگ‌ترین شهر و پایتخت ایران است و در دامنه‌های جنوبی البرز قرار دارد.",
            "شاهنامه اثر حکیم ابوالقاسم فردوسی است که سرودن آن حدود سی سال طول کشید.",
            "دماوند با ارتفاع ۵۶۱۰ متر بلندترین کوه ایران و بلندترین آتشفشان آسیا است.",
        ),
    ),
    "tr": (
        ("Türkiye'nin başkenti neresidir?", "Tablo nasıl eklenir?", "İstanbul ne zaman fethedildi?"),
        (
            "Ankara, 13 Ekim 1923'te Türkiye'nin başkenti olmuştur ve ülkenin ikinci büyük şehridir.",
            "Belgeye tablo eklemek için Tablo menüsünden Tablo Ekle komutunu seçin.",
            "İstanbul, 29 Mayıs 1453'te Osmanlı padişahı II. Mehmed tarafından fethedildi.",
        ),
    ),
    "ar": (
        ("ما هي عاصمة مصر؟", "من كتب رواية أولاد حارتنا؟", "أين يقع برج خليفة؟"),
        (
            "القاهرة هي عاصمة جمهورية مصر العربية وأكبر مدنها على ضفاف نهر النيل.",
            "رواية أولاد حارتنا كتبها الأديب المصري نجيب محفوظ الحائز على جائزة نوبل.",
            "يقع برج خليفة في مدينة دبي وهو أعلى بناء شيده الإنسان.",
        ),
    ),
}


@pytest.fixture(scope="module")
def encoder() -> M3Encoder:
    return M3Encoder.load("m3-tiny", device="cpu")


def test_the_folder_is_small_and_complete() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 90 * 2**20
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in files
    }
    assert not [path for path in files if path.suffix == ".bin"]


def test_it_has_everything_an_m3_model_has(encoder: M3Encoder) -> None:
    assert encoder.representations == frozenset(Representation)
    assert encoder.max_length == 8192


def test_a_long_text_is_encoded_whole(encoder: M3Encoder) -> None:
    vectors = encoder.encode_documents(["Die Fußnote steht unten auf der Seite. " * 200])
    assert not vectors.truncated[0]
    assert vectors.multi is not None
    assert len(vectors.multi[0]) > 1024


@pytest.mark.parametrize("lang", CASES)
def test_all_three_together_find_the_passage(encoder: M3Encoder, lang: str) -> None:
    # candidates are the passages of all languages; questions and passages were written for this test
    passages = [text for _, texts in CASES.values() for text in texts]
    queries, own = CASES[lang]
    scores = all_scores(encoder.encode_queries(queries), encoder.encode_documents(passages))
    weights = Weights()
    mixed = (
        weights.dense * scores["dense"] + weights.sparse * scores["sparse"] + weights.multi * scores["multi"]
    )
    assert [passages[best] for best in mixed.argmax(axis=1)] == list(own)


def test_no_representation_is_dead(encoder: M3Encoder) -> None:
    queries, passages = (list(texts) for texts in CASES["ko"])
    scores = all_scores(encoder.encode_queries(queries), encoder.encode_documents(passages))
    for name in ("dense", "sparse", "multi"):
        assert (scores[name].argmax(axis=1) == range(3)).sum() >= 2, name
    vectors = encoder.encode_documents(passages)
    assert vectors.sparse is not None
    assert vectors.sparse.nnz >= 3 * 8


def test_the_card_names_data_and_licences() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for word in (
        "nDCG@10",
        "BM25",
        "JaQuAD",
        "KorQuAD",
        "CMRC 2018",
        "DRCD",
        "PQuAD",
        "LibreOffice",
        "MPL-2.0",
        "Apache-2.0",
    ):
        assert word in card, word
    assert Path(FOLDER / "README.md").stat().st_size > 2000
