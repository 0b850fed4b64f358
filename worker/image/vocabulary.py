"""Words of Body Part Examined and View Position, in the languages in which devices write them.

The Standard wants defined terms in ASCII; modalities are configured by people, in their language.
All words here and all that they are compared with go through `elements.fold_text` first: upper
case without accents. A stem begins a word; a stem that ends in ``_`` is the whole word; of the
chest, long stems may stand within a word (BABYTHORAX). Scripts without blanks are searched as they
are.
"""

from __future__ import annotations

import re
from functools import cache

from worker.image.elements import fold_text

_CHEST = """
    chest cxr thorax thora torax toráx torac torak brustkorb poitrine thoraci pulmon pulmo
    poumon lung rib ribs ripp costa costil costel costal cotes côte clavic sternum sternal
    mediastin heart cardiac cardio brust herz lunge schlüsselbein brustbein pecho peito
    esternon esterno coste polmon cuore borstkas borst longen ribben hart_ klatka_ klp_
    pluca płuc żebr zeber mostek obojczyk hrudn hrudník plíce plic žebr klíční bröst lungor
    revben nyckelben brystkas lunger keuhko rintake kylkiluu mellkas tüdő borda_ bordák
    plaman coaste göğüs akciğer kaburga toraks köprücük prsni grudni grudn rebra plućа pluć
    dada_ rusuk paru ngực phổi грудн грудь грудин легк лёгк леген ребр огк торак ключиц
    сердц средостен гръд θώρακ πνεύμον πλευρ 胸 肺 肋 锁骨 鎖骨 心臓 心脏 흉부 가슴 폐 늑골 갈비
    쇄골 صدر رئة ضلع أضلاع قفسه חזה ריאות צלעות ทรวงอก ปอด ซี่โครง छाती babygram
"""
_SPINE = """
    spine spinal tspine vertebr wirbel bws hws lws lumbar lumbal rachis column coluna
    colonna kręgosł páteř ryggrad ryg_ hvirvel wervel omurga gerinc kraljež kralj selkäranka
    позвоноч позвонк хребет хребт σπονδυλ 椎 脊 척추 흉추 فقر עמוד_שדרה กระดูกสันหลัง mamm breast_
    bryst_
"""
"""What is not a chest although a word of the chest may stand beside it."""

_CHEST_ITSELF = "chest rib lung cxr"
"""Beside these, a word of the spine does not count: CHEST AND T SPINE shows a chest."""

_EMPTY = """
    unknown other others null none nil unspecified undefined undetermined not specified
    applicable defined set given available na n a nos any blank default misc miscellaneous
    unk tbd x xx xxx generic general body part examined
    unbekannt andere anderes sonstige sonstiges keine
    inconnu inconnue autre autres indetermine desconocido otro otros desconhecido outro
    outros sconosciuto altro altri onbekend overig nieznane nieznany inne inny okänd annan
    ukendt andet ukjent muu tuntematon egyéb ismeretlen neznámý jiné necunoscut altul
    bilinmeyen diğer неизвестно неизвестный другое другой нет не указано άγνωστο άλλο 不明 其他
    其它 未知 未指定 無し なし 无 その他 기타 미지정 알수없음 غيرمعروف أخرى
"""
_PLACE = """
    bedside portable port mobile mob icu ward stretcher trolley erect upright standing
    sitting seated supine prone semi semierect semisupine recumbent lying horizontal
    inspiration expiration insp exp deep adult pediatric paediatric child infant newborn
    neonate baby grid xray xr rx cr dx rtg rö x ray view views projection position single
    routine standard std standart im in at the on of and with for aufnahme bett bettaufnahme
    liegend stehend sitzend am lit au couche couché debout assis assise decubito supino
    sentado pie de en cama leito deitado letto seduto ortostatismo ortostatica a al bed
    liggend staand zittend leżąc stojąc siedząc przyłóżkowe łóżko vleže vstoje vsedě
    liggande stående sittande sängläge makuu seisten istuen fekvő álló ülő yatak yatarak
    ayakta oturarak лежа лёжа стоя сидя в палате палата на кровать κλίνη όρθια 床旁 床边 卧位 仰卧位
    臥位 仰臥位 立位 坐位 座位 ポータブル 病室 회진 이동 침상 سرير
"""
"""Where and how somebody lies, stands or sits: says nothing of the part or the direction."""

_LATERAL = """
    lat ll_ rl_ ltlat rtlat seitlich seitl_ seitenaufnahme profil perfil dwars bocz bocn
    bočn sivu_ sivukuva sidobild sida_ side_ oldal yandan yan_ crosstable xtable боков бок_
    профиль πλάγι 侧 側 측면 جانبي צד ด้านข้าง
"""
_OBLIQUE = """
    lao_ rao_ lpo_ rpo_ llo_ rlo_ obl oblic oblik schräg schraeg skos skrå šikm ukoś kosi_ ferde
    viisto косая косой косые кос_ λοξ 斜 사위 경사 مائل
"""
_FRONTAL = """
    pa_ ap_ pap_ front face_ frente anteropost posteroant antero postero lld_ rld_ vorder
    przód przednio tylnoprzednie zadopřední předozadní etukuva szemből önden прям переднез
    заднепер передн задн προσθ οπισθ 正 後前 前後 后前 前后 정면 후전 전후 أمامي
"""
_LONG = 5
"""Letters from which a stem of the chest may stand within a word."""
_GLUED = re.compile(
    r"(?:CHEST|THORAX|TORAX)?(?:PA|AP)(?:ERECT|SUPINE|PORT|MOB|BED|SIT|STAND|SEMI|UPR|\d|$)"
)
"""Direction and position written as one word, CHESTPA or APSUPINE."""
_INITIALS = re.compile(r"\b([A-Z]) ([A-Z])\b")


class _Stems:
    """Stems of words of one meaning."""

    def __init__(self, listed: str) -> None:
        stems = {fold_text(s).replace(" ", ""): s.endswith("_") for s in listed.split()}
        self._whole = frozenset(stem for stem, is_whole in stems.items() if is_whole)
        begun = [stem for stem, is_whole in stems.items() if not is_whole]
        self._first = tuple(stem for stem in begun if stem.isascii())
        self._foreign = tuple(stem for stem in begun if not stem.isascii())
        self._long = tuple(stem for stem in self._first if len(stem) >= _LONG)

    def are_in(self, text: str, within: bool = False) -> bool:
        """Return whether a word of `text`, as `fold_text` returns it, has one of the stems."""
        parts = text.split()
        joined = "".join(parts)
        return (
            not self._whole.isdisjoint(parts)
            or any(part.startswith(self._first) for part in parts)
            or any(stem in joined for stem in self._foreign)
            or (within and any(stem in joined for stem in self._long))
        )


@cache
def _word_stems(listed: str) -> _Stems:
    return _Stems(listed)


@cache
def _folded_words(listed: str) -> frozenset[str]:
    return frozenset(part for word in listed.split() for part in fold_text(word).split())


def says_nothing(text: str) -> bool:
    """Return whether a text is as good as empty: no word, UNKNOWN, OTHER, BEDSIDE and such."""
    parts = (part.strip("0123456789") for part in fold_text(text).split())
    return all(not part or part in _folded_words(_EMPTY + _PLACE) for part in parts)


def is_chest(text: str) -> bool:
    """Return whether a body part is the chest or one of its bones or organs."""
    words = fold_text(text)
    if _word_stems(_SPINE).are_in(words, within=True) and not _word_stems(_CHEST_ITSELF).are_in(
        words
    ):
        return False
    return _word_stems(_CHEST).are_in(words, within=True)


def named_view(text: str) -> str:
    """Return "frontal", "lateral", "oblique" or "other"; empty when no direction is named."""
    words = _INITIALS.sub(r"\1\2", fold_text(text))
    parts = words.split()
    is_lying = any(part.startswith(("DECUB", "DEKUB")) or part in ("LLD", "RLD") for part in parts)
    if is_lying and not {"DORSAL", "VENTRAL"} & set(parts):
        # A decubitus view is frontal: the beam is horizontal, the patient lies on a side.
        return "frontal"
    for view, listed in (("oblique", _OBLIQUE), ("lateral", _LATERAL), ("frontal", _FRONTAL)):
        if _word_stems(listed).are_in(words):
            return view
    if any(_GLUED.match(part) for part in parts):
        return "frontal"
    is_named = any(not says_nothing(part) and not is_chest(part) for part in parts)
    return "other" if is_named else ""
