"""What the documents of the corpus say: real prose on distinct topics, English and Chinese, with a question each.

A question does not repeat its document's sentences. The default model reads English only, so Chinese questions share
some telling characters with their document, by which the word index finds them.
"""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    path: str
    """Relative; the suffix decides how the document is written."""
    title: str
    paragraphs: tuple[str, ...]
    query: str
    phrase: str
    """Part of the passage that answers the question."""
    encoding: str = "utf-8"


ENGLISH = (
    Topic(
        "handbook/travel-expenses.txt",
        "Travel expenses",
        (
            "Employees who travel on behalf of the company are paid back for trains, flights in economy class and "
            "hotels up to 140 euros a night.",
            "Receipts must reach the finance office within thirty days of the return. Claims handed in later are "
            "refused unless the head of the department signs them.",
        ),
        "How long do I have to submit my bills after a business trip?",
        "within thirty days of the return",
    ),
    Topic(
        "handbook/parental-leave.md",
        "Parental leave",
        (
            "Both parents may stay at home after the birth of a child. The company adds twelve weeks on full pay to "
            "what the law provides.",
            "The leave can be split into at most three blocks, and has to begin before the child's second birthday.",
        ),
        "paid time off for a new mother or father",
        "twelve weeks on full pay",
    ),
    Topic(
        "handbook/remote-work.docx",
        "Working from abroad",
        (
            "Staff can do their job from another country of the union for up to six weeks a year.",
            "Tax and social insurance stay with the home country as long as that limit is respected, so the human "
            "resources team has to be told the dates beforehand.",
        ),
        "am I allowed to do my job from a foreign country?",
        "for up to six weeks a year",
    ),
    Topic(
        "it/vpn-setup.html",
        "Connecting from outside the office",
        (
            "Install the WireGuard client and import the profile that the help desk sent by mail.",
            "The tunnel drops when a laptop sleeps. Toggle the switch once and wait ten seconds before the internal "
            "sites can be opened again.",
        ),
        "remote network access stops after my notebook wakes up",
        "The tunnel drops when a laptop sleeps",
    ),
    Topic(
        "it/backup-policy.rst",
        "Backups",
        (
            "Servers are copied every night to a second building, and once a week to tape.",
            "A restore is rehearsed each quarter, because a copy that nobody has ever read back is a hope and not a "
            "backup.",
        ),
        "how often do we practise recovering lost data?",
        "A restore is rehearsed each quarter",
    ),
    Topic(
        "it/outage.log",
        "Outage of the mail relay",
        (
            "2024-03-02 04:11:09 WARN relay01 queue length 18422, disk 97 percent full",
            "2024-03-02 04:13:55 ERROR relay01 postfix stopped: no space left on device",
            "2024-03-02 06:40:12 INFO relay01 old spool files deleted, delivery of mail resumed",
        ),
        "why did the email server stop delivering?",
        "no space left on device",
    ),
    Topic(
        "science/photosynthesis.pdf",
        "Photosynthesis",
        (
            "Plants turn sunlight, water and carbon dioxide into sugar and oxygen. The green pigment chlorophyll "
            "catches the light in small bodies called chloroplasts.",
            "In the first stage water molecules are torn apart, in the second the Calvin cycle builds sugar from "
            "carbon dioxide.",
        ),
        "how do leaves make food from light?",
        "into sugar and oxygen",
    ),
    Topic(
        "science/black-holes.pdf",
        "Black holes",
        (
            "A star of more than about twenty suns ends in a collapse that nothing can halt. What remains bends space "
            "so strongly that not even light escapes from within the event horizon.",
            "Gas that falls in is heated to millions of degrees and shines in X-rays before it disappears.",
        ),
        "object in space whose gravity traps everything",
        "not even light escapes",
    ),
    Topic(
        "science/vaccines.docx",
        "How vaccines work",
        (
            "A vaccine shows the body a harmless piece of a germ. White blood cells learn its shape and keep memory "
            "cells for years.",
            "When the real germ arrives, antibodies are made within days instead of weeks, and the illness is mild or "
            "does not break out at all.",
        ),
        "immunisation and the immune system's recollection",
        "keep memory cells for years",
    ),
    Topic(
        "science/plate-tectonics.html",
        "Drifting continents",
        (
            "The crust of the Earth is broken into about a dozen plates that move a few centimetres a year.",
            "Where two of them scrape past each other tension builds up until the rock gives way and the ground "
            "shakes.",
        ),
        "what causes earthquakes?",
        "the rock gives way and the ground shakes",
    ),
    Topic(
        "science/bees.txt",
        "The dance of the bees",
        (
            "A honeybee that has found flowers comes home and runs a figure of eight on the comb.",
            "The angle of the straight run tells her sisters the direction relative to the sun, its length how far "
            "they have to fly.",
        ),
        "insects telling each other where nectar is",
        "relative to the sun",
    ),
    Topic(
        "science/ocean-currents.tex",
        "Ocean currents",
        (
            "Warm water flows north at the surface of the Atlantic, cools, becomes heavy and sinks near Greenland.",
            "This conveyor carries as much heat as a million power stations and keeps the winters of western Europe "
            "mild.",
        ),
        "why is it not colder in Ireland in January?",
        "keeps the winters of western Europe mild",
    ),
    Topic(
        "history/printing-press.docx",
        "Gutenberg's press",
        (
            "Around 1450 a goldsmith in Mainz cast single letters of metal that could be set, inked and used again.",
            "Within fifty years some twenty million volumes had been made, and the price of a book fell to a fraction.",
        ),
        "invention of movable type in Germany",
        "cast single letters of metal",
    ),
    Topic(
        "history/silk-road.pdf",
        "The Silk Road",
        (
            "For more than a thousand years caravans linked Chang'an with the Mediterranean, from oasis to oasis.",
            "Silk, paper and gunpowder went west, glass, horses and grapes came east, and with the goods travelled "
            "religions and plagues.",
        ),
        "ancient trade route between China and Europe",
        "caravans linked Chang'an with the Mediterranean",
    ),
    Topic(
        "history/apollo.pptx",
        "Apollo 11",
        (
            "On 20 July 1969 the lander Eagle touched down in the Sea of Tranquility with fuel for less than a minute.",
            "Armstrong and Aldrin stayed outside for two and a half hours and brought home twenty-one kilograms of "
            "rock.",
        ),
        "first humans walking on the lunar surface",
        "touched down in the Sea of Tranquility",
    ),
    Topic(
        "history/roman-roads.md",
        "Roman roads",
        (
            "Legions built more than eighty thousand kilometres of paved highways, drained by ditches on both sides.",
            "Layers of stone, gravel and sand carried slabs of basalt, so that carts could roll in any weather.",
        ),
        "how did the ancient empire construct its streets?",
        "Layers of stone, gravel and sand",
    ),
    Topic(
        "kitchen/sourdough.txt",
        "Sourdough bread",
        (
            "Feed the starter with equal weights of flour and water the evening before, until it bubbles.",
            "Let the dough rise slowly in the refrigerator overnight and bake it in a hot iron pot, the first twenty "
            "minutes with the lid on.",
        ),
        "recipe for a loaf without commercial yeast",
        "Feed the starter",
    ),
    Topic(
        "kitchen/knife-care.html",
        "Looking after kitchen knives",
        (
            "Never put a good blade into the dishwasher: heat and salt ruin the edge and the handle.",
            "Draw it over a wet whetstone at an angle of fifteen degrees twice a year, and strop it on leather in "
            "between.",
        ),
        "sharpening cutlery",
        "wet whetstone at an angle of fifteen degrees",
    ),
    Topic(
        "kitchen/espresso.json",
        "Espresso",
        (
            "Eighteen grams of finely ground coffee give thirty-six grams in the cup after about twenty-seven seconds.",
            "If it runs too fast and tastes sour, grind finer; if it drips and tastes bitter, grind coarser.",
        ),
        "my coffee shot is acidic, what should I change?",
        "tastes sour, grind finer",
    ),
    Topic(
        "money/inflation.pptx",
        "Inflation",
        (
            "When prices rise in general, each unit of currency buys less. The central bank answers by raising the "
            "interest rate.",
            "Dearer loans make households and firms spend less, which cools demand after a year or so.",
        ),
        "monetary policy against rising cost of living",
        "raising the interest rate",
    ),
    Topic(
        "money/index-funds.md",
        "Index funds",
        (
            "Such a fund holds every share of an index in proportion and does not try to pick winners.",
            "Because nobody has to be paid for choosing, fees are as low as a tenth of a percent, and over twenty "
            "years nine out of ten active managers do worse.",
        ),
        "cheap passive investing in the stock market",
        "does not try to pick winners",
    ),
    Topic(
        "law/rent-deposit.docx",
        "Deposits of tenants",
        (
            "A landlord may ask for a deposit of no more than three months' rent, and has to keep it in an account of "
            "its own.",
            "It is given back, with interest, at the latest six months after the flat was handed over, less the cost "
            "of damage beyond normal wear.",
        ),
        "when do I get my security money back after moving out?",
        "at the latest six months after the flat was handed over",
    ),
    Topic(
        "law/open-source.txt",
        "Free licences",
        (
            "Permissive licences such as MIT ask only that the notice is kept. Copyleft licences ask that whoever "
            "passes the program on passes the source on too.",
            "The Affero variant closes the gap for services: users who reach a program over a network have a right to "
            "its source as well.",
        ),
        "do I have to publish my code if I only run it on a server?",
        "The Affero variant",
    ),
    Topic(
        "health/sleep.pdf",
        "Sleep",
        (
            "Adults need between seven and nine hours. During deep sleep the brain washes out waste and moves the "
            "day's memories into long-term storage.",
            "Blue light from screens delays the hormone melatonin, so telephones should leave the bedroom an hour "
            "before bedtime.",
        ),
        "why should I not look at my phone at night?",
        "delays the hormone melatonin",
    ),
    Topic(
        "health/first-aid.pptx",
        "First aid",
        (
            "Somebody who does not react and does not breathe normally needs chest compressions at once: hard and "
            "fast, a hundred to a hundred and twenty a minute.",
            "Send a bystander for the defibrillator and call the emergency number before you begin.",
        ),
        "cardiac arrest: what to do",
        "chest compressions at once",
    ),
    Topic(
        "garden/tomatoes.csv",
        "Vegetable calendar",
        (
            "Tomato,indoors in early March,after the last frost in May,pinch out side shoots and water the roots only",
            "Carrot,outdoors in April,not needed,thin the rows and cover them with fleece against flies",
            "Pumpkin,indoors in April,late May,feed with compost and put straw under the fruit",
        ),
        "when to thin root vegetables and protect them from flies",
        "cover them with fleece against flies",
    ),
    Topic(
        "garden/compost.md",
        "Compost",
        (
            "Mix two parts of brown matter, such as leaves and cardboard, with one part of green kitchen scraps.",
            "A heap that stinks is too wet: turn it and add shredded twigs so that air reaches the middle.",
        ),
        "my pile of rotting garden waste smells bad",
        "A heap that stinks is too wet",
    ),
    Topic(
        "music/piano-tuning.txt",
        "Tuning a piano",
        (
            "The tuner begins with the A above middle C, at 440 hertz, and sets the octave around it by ear.",
            "Equal temperament makes every fifth a little too narrow, so that all keys can be played.",
        ),
        "keyboard instrument intonation",
        "makes every fifth a little too narrow",
    ),
    Topic(
        "sport/marathon.xlsx",
        "Marathon plan",
        (
            "Weeks 1-4|three easy runs and one long run of 16 km|build the habit",
            "Weeks 5-12|add intervals on the track, long run grows to 32 km|raise the threshold",
            "Weeks 13-16|cut the distance by half and sleep well|taper before race day",
        ),
        "reducing training load shortly before the competition",
        "taper before race day",
    ),
    Topic(
        "sport/chess-openings.jsonl",
        "Chess openings",
        (
            "Sicilian Defence: Black answers the king's pawn with c5 and fights for the centre from the side.",
            "Queen's Gambit: White offers the c-pawn to lure the black d-pawn away from the middle of the board.",
        ),
        "sacrificing a pawn in the beginning as white",
        "offers the c-pawn",
    ),
    Topic(
        "sales/regions.tsv",
        "Sales by region",
        (
            "Scandinavia\t1 240 000\tgrowth driven by heat pumps and district heating",
            "Iberia\t860 000\tweak: drought cut orders for irrigation pumps",
            "Alps\t430 000\tsteady demand for snow guns",
        ),
        "which market suffered from the lack of rain?",
        "drought cut orders",
    ),
    Topic(
        "code/retry.py",
        "Retrying with backoff",
        (
            "Call a function again after failures, waiting exponentially longer with random jitter.",
            "The circuit breaker opens after five failures in a row and refuses calls for half a minute.",
        ),
        "exponential delay between attempts of a failing request",
        "waiting exponentially longer with random jitter",
    ),
    Topic(
        "code/schema.sql",
        "Library database",
        (
            "Every loan refers to one reader and one copy of a book; a copy can be out only once at a time.",
            "Overdue loans are reported each morning to the front desk.",
        ),
        "database table for borrowed books",
        "a copy can be out only once at a time",
    ),
    Topic(
        "deutsch/brandschutz.txt",
        "Brandschutzordnung",
        (
            "Bei Feueralarm verlassen alle Beschäftigten das Gebäude über die gekennzeichneten Fluchtwege. Die Aufzüge "
            "dürfen nicht benutzt werden.",
            "Sammelstelle ist der große Parkplatz hinter der Kantine; dort prüft die Räumungshelferin die "
            "Vollzähligkeit.",
        ),
        "Sammelstelle Parkplatz Feueralarm",
        "der große Parkplatz hinter der Kantine",
        "latin-1",
    ),
    Topic(
        "notes/meeting-utf16.txt",
        "Minutes of the roof meeting",
        (
            "The owners decided to put solar panels on the southern side of the roof next spring.",
            "Three offers lie on the table; the cheapest one leaves out the battery.",
        ),
        "photovoltaic installation decision",
        "solar panels on the southern side",
        "utf-16",
    ),
)

CHINESE = (
    Topic(
        "中文/员工手册.txt",
        "员工手册：年假",
        (
            "员工入职满一年后，每年享有十天带薪年假；满五年后增加到十五天。",
            "当年未休完的年假最多可以顺延到次年三月三十一日，逾期作废。",
        ),
        "没有休完的年假可以顺延到什么时候？",
        "顺延到次年三月三十一日",
        "gb18030",
    ),
    Topic(
        "中文/人工智能.pdf",
        "人工智能与医学影像",
        (
            "深度学习模型可以在几秒钟之内读完一张肺部CT影像，并标出可疑的结节。",
            "不过最终的诊断仍然由放射科医生负责，机器只是第二双眼睛。",
        ),
        "深度学习怎样帮助发现肺部结节",
        "标出可疑的结节",
    ),
    Topic(
        "中文/茶文化.docx",
        "中国茶文化",
        (
            "绿茶不发酵，保留了茶叶的清香；红茶完全发酵，汤色红亮；乌龙茶介于两者之间。",
            "冲泡绿茶的水温以八十度为宜，水太烫会使茶汤发苦。",
        ),
        "泡绿茶用多少度的水温比较好",
        "水温以八十度为宜",
    ),
    Topic(
        "中文/高铁.html",
        "高速铁路",
        (
            "京沪高铁全长一千三百一十八公里，列车最高时速三百五十公里。",
            "从北京到上海最快只需要四个小时十八分钟，比飞机更加准点。",
        ),
        "北京到上海坐高铁最快要几个小时",
        "四个小时十八分钟",
    ),
    Topic(
        "中文/垃圾分类.pptx",
        "垃圾分类指南",
        (
            "废电池、过期药品和荧光灯管属于有害垃圾，应当投入红色的收集桶。",
            "厨余垃圾要沥干水分之后再投放，塑料袋另外丢弃。",
        ),
        "过期药品和电池应该扔到哪个颜色的桶",
        "红色的收集桶",
    ),
    Topic(
        "中文/水稻.md",
        "杂交水稻",
        (
            "袁隆平团队在一九七三年实现了三系配套，杂交水稻的亩产比普通品种提高两成以上。",
            "近年选育的耐盐碱品种可以在沿海滩涂上种植，被称为海水稻。",
        ),
        "能在沿海滩涂盐碱地种植的水稻",
        "被称为海水稻",
    ),
    Topic(
        "中文/夜市.txt",
        "台灣夜市",
        (
            "士林夜市是台北規模最大的夜市，遊客最愛的小吃有蚵仔煎、大餅包小餅和豪大雞排。",
            "晚間六點以後人潮最多，建議搭乘捷運淡水線到劍潭站下車。",
        ),
        "去士林夜市要搭捷運到哪一站下車",
        "劍潭站下車",
        "big5",
    ),
    Topic(
        "中文/价格表.xlsx",
        "水果价格",
        (
            "苹果|每斤六元五角|产地山东烟台",
            "荔枝|每斤十八元|产地广东茂名，六月上市",
            "哈密瓜|每斤四元|产地新疆，八月最甜",
        ),
        "荔枝的产地和上市月份",
        "产地广东茂名",
    ),
    Topic(
        "中文/图书.csv",
        "图书目录",
        (
            "三体,刘慈欣,科幻小说，讲述地球文明与外星文明的接触",
            "活着,余华,讲述农民福贵一生的苦难与坚韧",
            "围城,钱锺书,描写知识分子的婚姻与事业",
        ),
        "刘慈欣写的关于外星文明的科幻小说",
        "地球文明与外星文明的接触",
    ),
    Topic(
        "中文/设备.json",
        "实验室设备",
        (
            "离心机每运行五百小时需要更换碳刷，由设备科负责登记。",
            "超低温冰箱的报警温度设定为零下七十度，夜间由值班员处理。",
        ),
        "超低温冰箱报警温度是多少",
        "零下七十度",
    ),
    Topic(
        "中文/地震.pdf",
        "地震避险",
        (
            "地震发生时应当就近躲避，蹲在结实的桌子下面并护住头部，不要乘坐电梯。",
            "震后迅速撤离到空旷的广场，远离玻璃幕墙和高压电线。",
        ),
        "地震发生时在室内怎样躲避",
        "蹲在结实的桌子下面并护住头部",
    ),
    Topic(
        "日本語/紅葉.txt",
        "京都の紅葉",
        (
            "京都の紅葉は例年十一月下旬に見頃を迎え、東福寺の通天橋からの眺めが特に有名です。",
            "夜間のライトアップは九時に終わるので、早めに並ぶことをお勧めします。",
        ),
        "東福寺の紅葉の見頃",
        "十一月下旬に見頃を迎え",
        "shift_jis",
    ),
    Topic(
        "한국어/지하철.txt",
        "서울 지하철 안내",
        (
            "서울 지하철의 첫차는 오전 다섯 시 삼십 분에 출발하고 막차는 자정 무렵에 끊깁니다.",
            "교통카드를 사용하면 버스와 지하철 사이의 환승 요금이 할인됩니다.",
        ),
        "지하철 환승 요금 할인 교통카드",
        "환승 요금이 할인됩니다",
        "euc_kr",
    ),
)

TOPICS = ENGLISH + CHINESE

MISLABELLED = (
    Topic(
        "odd/really-a-pdf.txt",
        "Coral reefs",
        (
            "Corals live together with algae that feed them by day. When the sea grows too warm the coral throws its "
            "guests out, turns white and starves.",
        ),
        "bleaching of corals",
        "turns white and starves",
    ),
    Topic(
        "odd/really-a-document.pdf",
        "Violins of Cremona",
        (
            "Stradivari chose spruce that had grown slowly during the cold decades of the seventeenth century, and "
            "varnished it with a recipe that nobody has recovered.",
        ),
        "wood of famous Italian string instruments",
        "spruce that had grown slowly",
    ),
    Topic(
        "odd/really-a-workbook.zip",
        "Lighthouses",
        (
            "Eddystone|49 m|first tower lost in the storm of 1703",
            "Skerryvore|48 m|granite from the isle of Mull",
        ),
        "beacon tower for ships destroyed by bad weather",
        "first tower lost in the storm",
    ),
    Topic(
        "odd/README",
        "Weather balloons",
        (
            "Twice a day some nine hundred stations let a balloon with a radiosonde go. It bursts at thirty kilometres "
            "and the instrument drifts back on a parachute.",
        ),
        "measuring the atmosphere with a radiosonde",
        "bursts at thirty kilometres",
    ),
)
