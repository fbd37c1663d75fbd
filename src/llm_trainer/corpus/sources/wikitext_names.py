"""Words of many Wikipedias that markup depends on, for dumps that do not name them in their first lines."""

from __future__ import annotations

from dataclasses import dataclass, field

FILE_NAMES = frozenset(
    {
        "file", "image", "media", "fichier", "datei", "bild", "archivo", "imagen", "immagine", "ficheiro",
        "imagem", "bestand", "afbeelding", "plik", "grafika", "файл", "изображение", "картинка", "зображення",
        "ファイル", "画像", "파일", "文件", "檔案", "图像", "fil", "soubor", "tiedosto", "fájl", "kép",
        "αρχείο", "dosya", "resim", "ملف", "صورة", "پرونده", "תמונה", "קובץ", "चित्र", "চিত্র", "fitxer",
        "imatge", "fișier", "imagine", "датотека", "слика", "berkas", "tập_tin", "hình", "ไฟล์",
    }
)  # fmt: skip
CATEGORY_NAMES = frozenset(
    {
        "category", "catégorie", "kategorie", "categoría", "categoria", "categorie", "kategoria", "категория",
        "категорія", "カテゴリ", "분류", "分类", "分類", "kategori", "luokka", "kategória", "kategórie",
        "κατηγορία", "تصنيف", "رده", "קטגוריה", "श्रेणी", "বিষয়শ্রেণী", "категорија", "thể_loại", "หมวดหมู่",
        "kategorija",
    }
)  # fmt: skip
# Sections of links and references, whose lines are no prose.
DROPPED_SECTIONS = frozenset(
    {
        "references", "external links", "see also", "further reading", "notes", "footnotes",
        "notes and references", "bibliography", "sources", "citations", "einzelnachweise", "weblinks",
        "siehe auch", "literatur", "références", "liens externes", "voir aussi", "notes et références",
        "referencias", "enlaces externos", "véase también", "note", "collegamenti esterni", "altri progetti",
        "voci correlate", "referências", "ligações externas", "ver também", "примечания", "ссылки", "см. также",
        "литература", "източници", "бележки", "бележки и източници", "външни препратки", "вижте също",
        "примітки", "посилання",
        "przypisy", "linki zewnętrzne", "zobacz też", "externe links", "zie ook", "脚注", "関連項目",
        "外部リンク", "参考文献", "外部链接", "参见", "각주", "외부 링크", "같이 보기",
    }
)  # fmt: skip


@dataclass(frozen=True)
class WikiNames:
    """The words of one wiki that markup depends on; a dump names them in its first lines.

    Attributes:
        files: names of the namespaces of files and media, lower case, spaces as ``_``.
        categories: names of the namespace of categories.
        sections: headings, lower case, whose sections are left out.
    """

    files: frozenset[str] = FILE_NAMES
    categories: frozenset[str] = CATEGORY_NAMES
    sections: frozenset[str] = field(default=DROPPED_SECTIONS)


DEFAULT_NAMES = WikiNames()
