"""Everyday sentences in twenty languages, and the files of the declaration of human rights by language."""

from __future__ import annotations

SENTENCES: dict[str, list[str]] = {
    "en": [
        "The train was late again this morning, so we walked along the river to the office.",
        "My grandmother keeps her recipes in a small wooden box above the stove.",
        "Nobody knows who painted the ceiling of the old town hall.",
    ],
    "de": [
        "Der Zug hatte heute Morgen wieder Verspätung, deshalb gingen wir zu Fuß am Fluss entlang ins Büro.",
        "Meine Großmutter bewahrt ihre Rezepte in einer kleinen Holzkiste über dem Herd auf.",
        "Niemand weiß, wer die Decke des alten Rathauses bemalt hat.",
    ],
    "fr": [
        "Le train était encore en retard ce matin, alors nous avons marché le long de la rivière jusqu'au bureau.",
        "Ma grand-mère garde ses recettes dans une petite boîte en bois au-dessus de la cuisinière.",
        "Personne ne sait qui a peint le plafond de l'ancien hôtel de ville.",
    ],
    "es": [
        "El tren llegó tarde otra vez esta mañana, así que caminamos junto al río hasta la oficina.",
        "Mi abuela guarda sus recetas en una pequeña caja de madera encima de la cocina.",
        "Nadie sabe quién pintó el techo del antiguo ayuntamiento.",
    ],
    "it": [
        "Stamattina il treno era di nuovo in ritardo, così abbiamo camminato lungo il fiume fino all'ufficio.",
        "Mia nonna tiene le sue ricette in una piccola scatola di legno sopra i fornelli.",
        "Nessuno sa chi abbia dipinto il soffitto del vecchio municipio.",
    ],
    "pt": [
        "O comboio atrasou-se outra vez esta manhã, por isso caminhámos junto ao rio até ao escritório.",
        "A minha avó guarda as suas receitas numa pequena caixa de madeira por cima do fogão.",
        "Ninguém sabe quem pintou o teto da antiga câmara municipal.",
    ],
    "nl": [
        "De trein had vanochtend weer vertraging, dus liepen we langs de rivier naar kantoor.",
        "Mijn grootmoeder bewaart haar recepten in een klein houten kistje boven het fornuis.",
        "Niemand weet wie het plafond van het oude stadhuis heeft geschilderd.",
    ],
    "sv": [
        "Tåget var försenat igen i morse, så vi gick längs floden till kontoret.",
        "Min mormor förvarar sina recept i en liten trälåda ovanför spisen.",
        "Ingen vet vem som målade taket i det gamla rådhuset.",
    ],
    "da": [
        "Toget var forsinket igen i morges, så vi gik langs floden hen til kontoret.",
        "Min bedstemor gemmer sine opskrifter i en lille trækasse over komfuret.",
        "Ingen ved, hvem der har malet loftet i det gamle rådhus.",
    ],
    "fi": [
        "Juna oli taas myöhässä tänä aamuna, joten kävelimme jokea pitkin toimistolle.",
        "Isoäitini säilyttää reseptejään pienessä puulaatikossa lieden yläpuolella.",
        "Kukaan ei tiedä, kuka maalasi vanhan kaupungintalon katon.",
    ],
    "pl": [
        "Pociąg znowu się dziś rano spóźnił, więc poszliśmy wzdłuż rzeki do biura.",
        "Moja babcia trzyma swoje przepisy w małej drewnianej skrzynce nad kuchenką.",
        "Nikt nie wie, kto namalował sufit starego ratusza.",
    ],
    "cs": [
        "Vlak měl dnes ráno zase zpoždění, a tak jsme šli podél řeky do kanceláře.",
        "Moje babička má své recepty v malé dřevěné krabičce nad sporákem.",
        "Nikdo neví, kdo namaloval strop staré radnice.",
    ],
    "hu": [
        "A vonat ma reggel megint késett, ezért a folyó mentén sétáltunk az irodáig.",
        "A nagymamám egy kis fadobozban tartja a receptjeit a tűzhely fölött.",
        "Senki sem tudja, ki festette a régi városháza mennyezetét.",
    ],
    "tr": [
        "Tren bu sabah yine gecikti, bu yüzden nehir boyunca ofise kadar yürüdük.",
        "Büyükannem tariflerini ocağın üstündeki küçük tahta bir kutuda saklıyor.",
        "Eski belediye binasının tavanını kimin boyadığını kimse bilmiyor.",
    ],
    "ru": [
        "Сегодня утром поезд снова опоздал, поэтому мы пошли в контору пешком вдоль реки.",
        "Моя бабушка хранит свои рецепты в маленькой деревянной коробке над плитой.",
        "Никто не знает, кто расписал потолок старой ратуши.",
    ],
    "uk": [
        "Сьогодні вранці потяг знову запізнився, тому ми пішли до контори пішки вздовж річки.",
        "Моя бабуся зберігає свої рецепти в маленькій дерев'яній скриньці над плитою.",
        "Ніхто не знає, хто розмалював стелю старої ратуші.",
    ],
    "el": [
        "Το τρένο άργησε πάλι σήμερα το πρωί, έτσι περπατήσαμε κατά μήκος του ποταμού μέχρι το γραφείο.",
        "Η γιαγιά μου φυλάει τις συνταγές της σε ένα μικρό ξύλινο κουτί πάνω από την κουζίνα.",
        "Κανείς δεν ξέρει ποιος ζωγράφισε την οροφή του παλιού δημαρχείου.",
    ],
    "zh": [
        "今天早上火车又晚点了，所以我们沿着河边走到了办公室。",
        "我的祖母把她的食谱放在炉子上方的一个小木盒里。",
        "没有人知道旧市政厅的天花板是谁画的。",
    ],
    "ja": [
        "今朝も電車が遅れたので、私たちは川沿いを歩いて会社まで行きました。",
        "祖母はレシピをコンロの上の小さな木の箱にしまっています。",
        "古い市役所の天井を誰が描いたのか、誰も知りません。",
    ],
    "ar": [
        "تأخر القطار مرة أخرى هذا الصباح، لذلك مشينا على طول النهر إلى المكتب.",
        "تحتفظ جدتي بوصفاتها في صندوق خشبي صغير فوق الموقد.",
        "لا أحد يعرف من رسم سقف دار البلدية القديمة.",
    ],
}

# Name of a file without its encoding -> code, for the languages that the model knows. Left out, because they are not
# what the model was taught under that code: Punjabi in Arabic letters, Uyghur in Latin letters, and Khalkha Mongolian
# in the bytes of a special font.
DECLARATION = {
    name: code
    for line in """
        Afaan_Oromo_Oromiffa om|Oromiffa_AfaanOromo om|Afrikaans af|Achehnese ace|Albanian_Shqip sq|Arabic_Alarabia ar
        Basque_Euskara eu|Belorus_Belaruski be|Bengali bn|Bikol_Bicolano bcl|Bosnian_Bosanski bs|Breton br
        Bulgarian_Balgarski bg|Burmese_Myanmar my|Catalan ca|Catalan_Catala ca|Chinese_Mandarin zh
        Croatian_Hrvatski hr|Hrvatski_Croatian hr|Czech cs|Czech_Cesky cs|Danish_Dansk da|Dutch_Nederlands nl
        English en|Esperanto eo|Estonian_Eesti et|Faroese fo|Farsi_Persian fa|Farsi_Persian-v2 fa|Filipino_Tagalog tl
        Finnish_Suomi fi|French_Francais fr|Frisian fy|Galician_Galego gl|German_Deutsch de|Greek_Ellinika el
        Guarani gug|Gujarati gu|HaitianCreole_Kreyol ht|HaitianCreole_Popular ht|Hausa_Haoussa ha|Hebrew_Ivrit he
        Hindi hi|Hindi_web hi|Hungarian_Magyar hu|Icelandic_Yslenska is|Igbo ig|Indonesian id|IrishGaelic_Gaeilge ga
        Italian it|Italian_Italiano it|Japanese_Nihongo ja|Javanese jv|Kannada kn|Kazakh kk|Kinyarwanda rw
        Korean_Hankuko ko|Kurdish ku|Lao lo|Latin_Latina la|Latin_Latina-v2 la|Latvian lv|Lingala ln
        Lithuanian_Lietuviskai lt|Luganda_Ganda lg|Luxembourgish_Letzebuergeusch lb|Macedonian mk|Malagasy mg
        Malay_BahasaMelayu ms|Maltese mt|Marathi mr|Nepali ne|NigerianPidginEnglish pcm|NorthernSotho_Pedi-Sepedi nso
        Norwegian no|Norwegian_Norsk-Bokmal no|Norwegian_Norsk-Nynorsk nn|OccitanAuvergnat oc|OccitanLanguedocien oc
        Polish pl|Polish_Polski pl|Portuguese_Portugues pt|Quechua qu|Romanian ro|Romanian_Romana ro|Russian ru
        Russian_Russky ru|Serbian_Srpski sr|Shona sn|Sinhala si|Slovak sk|Slovak_Slovencina sk|Slovenian_Slovenscina sl
        Somali so|SouthernSotho_Sotho-Sesotho-Sutu-Sesutu st|Spanish es|Spanish_Espanol es|Swaheli sw
        Swahili_Kiswahili sw|Swedish_Svenska sv|Tamil ta|Turkish_Turkce tr|Ukrainian uk|Uzbek uz|Vietnamese vi
        Walloon_Wallon wa|Welsh_Cymraeg cy|Xhosa xh|Yoruba yo|Zulu zu|Sanskrit sa|Peuhl fuv|Pulaar fuv
        ScottishGaelic_GaidhligAlbanach gd
    """.strip().splitlines()
    for name, code in (item.split() for item in line.strip().split("|"))
}

ENCODINGS = {
    "UTF8": "utf-8",
    "Latin1": "cp1252",
    "Latin2": "iso8859-2",
    "Cyrillic": "cp1251",
    "Greek": "iso8859-7",
    "Hebrew": "cp1255",
    "Arabic": "cp1256",
    "Turkish": "iso8859-9",
    "Baltic": "cp1257",
    "EUC": "euc_jp",
    "SJIS": "shift_jis",
    "GB2312": "gb2312",
    "HZ": "hz",
}
