"""Named public data sets: address, checksum, licence, and the reader that understands them.

Sets behind a log-in are listed too: there the answer is where to put the file. ``download.get`` fetches them.
A long file because it is a list.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CatalogEntry:
    """One public data set.

    Attributes:
        name: what the user types.
        title: one line for people.
        address: where the archive is; for a set behind a log-in, the page to visit.
        file: file name of the archive as kept on disk.
        checksum: ``md5:...`` or ``sha256:...`` of the archive; None where no trustworthy one is public.
        licence: in short; the maker's own page has the last word.
        reader: the format name ``corral data add --format`` takes; None where no reader exists yet.
        folder: directory inside the unpacked archive that holds the maker's files ("" = its top).
        changes: the maker replaces this file from time to time, so another checksum warns and does not fail.
        login: the maker asks for an account, so we cannot download it.
        add_options: further options ``corral data add`` needs for this set (a column map).
    """

    name: str
    title: str
    address: str
    file: str
    checksum: str | None
    licence: str
    reader: str | None
    folder: str = ""
    changes: bool = False
    login: bool = False
    add_options: str = ""


_GROUPLENS = "https://files.grouplens.org/datasets"
_SNAP = "https://snap.stanford.edu/data"
_UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"
_ZENODO = "https://zenodo.org/records"
_RECZOO = "https://huggingface.co/datasets/reczoo"
_YAMBDA = "https://huggingface.co/datasets/yandex/yambda/resolve/main/flat/50m"

_ML_CLOSED = "GroupLens research licence: non-commercial, no redistribution without permission"
_ML_OPEN = "GroupLens: non-commercial; redistribution under the same terms"
_AMAZON = "given for research by J. McAuley, UCSD; cite the release's paper"


def _movielens(size: str, checksum: str, licence: str, *, folder: str, changes: bool = False) -> CatalogEntry:
    return CatalogEntry(
        name=f"ml-{size}",
        title=f"MovieLens {size}: film ratings",
        address=f"{_GROUPLENS}/movielens/ml-{size}.zip",
        file=f"ml-{size}.zip",
        checksum=checksum,
        licence=licence,
        reader="movielens",
        folder=folder,
        changes=changes,
    )


def _amazon_2014(category: str, sha256: str) -> CatalogEntry:
    return CatalogEntry(
        name=f"amazon-2014-{category.lower().replace('_', '-')}",
        title=f"Amazon product ratings 2014, {category.replace('_', ' ')} (all ratings, no features)",
        address=f"{_SNAP}/amazon/productGraph/categoryFiles/ratings_{category}.csv",
        file=f"ratings_{category}.csv",
        checksum=f"sha256:{sha256}",
        licence=_AMAZON,
        reader="amazon-ratings",
    )


def _amazon_2018(category: str, sha256: str) -> CatalogEntry:
    return CatalogEntry(
        name=f"amazon-2018-{category.lower().replace('_', '-')}",
        title=f"Amazon product ratings 2018, {category.replace('_', ' ')} (all ratings, no features)",
        address=f"{_UCSD}/amazon_v2/categoryFilesSmall/{category}.csv",
        file=f"amazon-2018-{category}.csv",
        checksum=f"sha256:{sha256}",
        licence=_AMAZON,
        reader="amazon-2018-ratings",
    )


def _amazon_2023(category: str, sha256: str) -> CatalogEntry:
    return CatalogEntry(
        name=f"amazon-2023-{category.lower().replace('_', '-')}",
        title=f"Amazon product ratings 2023, {category.replace('_', ' ')} (all ratings, no features)",
        address=f"{_UCSD}/amazon_2023/benchmark/0core/rating_only/{category}.csv.gz",
        file=f"amazon-2023-{category}.csv.gz",
        checksum=f"sha256:{sha256}",
        licence=_AMAZON,
        reader="table",
        add_options="--user user_id --item parent_asin --timestamp timestamp --value rating",
    )


def _kuairand(size: str, md5: str) -> CatalogEntry:
    return CatalogEntry(
        name=f"kuairand-{size.lower()}",
        title=f"KuaiRand-{size}: short videos shown and watched, with random exposures",
        address=f"{_ZENODO}/10439422/files/KuaiRand-{size}.tar.gz",
        file=f"KuaiRand-{size}.tar.gz",
        checksum=f"md5:{md5}",
        licence="CC BY-SA 4.0",
        reader=None,
    )


def _yambda(kind: str, sha256: str) -> CatalogEntry:
    return CatalogEntry(
        name=f"yambda-50m-{kind}",
        title=f"Yambda 50M: music, {kind}",
        address=f"{_YAMBDA}/{kind}.parquet",
        file=f"yambda-50m-{kind}.parquet",
        checksum=f"sha256:{sha256}",
        # From memory: the data set's card could not be read when this was written.
        licence="Apache-2.0 as we remember it; read the data set's card",
        reader="table",
        add_options="--user uid --item item_id --timestamp timestamp",
    )


# Where the sums come from. None was computed by us from a download, so a mismatch may be ours:
# - MovieLens 100k..25M: sha256 of the registry in the omnirec 1.1.0 package; 32M: the .md5 file beside the
#   zip, as quoted by several public repositories.
# - HetRec and Gowalla: omnirec 1.1.0 (sha256). Tmall: the datarec 1.5.7 package (md5).
# - Amazon 2014/2018/2023 ratings, Yambda: omnirec 1.1.0 (sha256).
# - KuaiRand, KuaiRec: public code quoting the Zenodo record (md5).
# - KKBox_x1, MovielensLatest_x1: the reczoo commits (sha256 of the zip).
# - datarec gives one md5 for the Beauty and the Sports reviews of 2014; one must be wrong, so neither is
#   here.
_ENTRIES: tuple[CatalogEntry, ...] = (
    _movielens(
        "100k",
        "sha256:50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        _ML_CLOSED,
        folder="ml-100k",
    ),
    _movielens(
        "1m",
        "sha256:a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        _ML_CLOSED,
        folder="ml-1m",
    ),
    _movielens(
        "10m",
        "sha256:813c411ccb6122564edfe752e7f80c4dcc5aa25fa94c93622f6877a7ba252862",
        "GroupLens; see the README in the archive",
        folder="ml-10M100K",
    ),
    _movielens(
        "20m",
        "sha256:96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
        _ML_OPEN,
        folder="ml-20m",
    ),
    _movielens(
        "25m",
        "sha256:8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
        _ML_OPEN,
        folder="ml-25m",
    ),
    _movielens("32m", "md5:d472be332d4daa821edc399621853b57", _ML_OPEN, folder="ml-32m"),
    _movielens(
        "latest-small",
        "sha256:696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
        _ML_OPEN,
        folder="ml-latest-small",
        changes=True,
    ),
    CatalogEntry(
        name="lastfm-2k",
        title="HetRec 2011 Last.fm 2K: dated tag assignments (listening counts: --format lastfm-listening)",
        address=f"{_GROUPLENS}/hetrec2011/hetrec2011-lastfm-2k.zip",
        file="hetrec2011-lastfm-2k.zip",
        checksum="sha256:6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c",
        licence="non-commercial; cite last.fm and HetRec 2011",
        reader="lastfm",
    ),
    CatalogEntry(
        name="gowalla",
        title="Gowalla check-ins (SNAP): user, time, place",
        address=f"{_SNAP}/loc-gowalla_totalCheckins.txt.gz",
        file="loc-gowalla_totalCheckins.txt.gz",
        checksum="sha256:c1c3e19effba649b6c89aeab3c1f9459fad88cfdc2b460fc70fd54e295d83ea0",
        licence="none stated; cite Cho, Myers & Leskovec (2011)",
        reader=None,
    ),
    CatalogEntry(
        name="online-retail-full",
        title="Online Retail (UCI 352): every invoice row, with returns; the purchases come with corral",
        # The first address is from memory, and UCI publishes no sum.
        address="https://archive.ics.uci.edu/static/public/352/online+retail.zip",
        file="online-retail.zip",
        checksum=None,
        licence="CC BY 4.0; cite Chen, D. (2015), DOI 10.24432/C5BW33",
        reader="online-retail",
    ),
    _amazon_2014("Beauty", "17d5232b90444beecfe758ce1446e5300230491f3a88ac802992ca95fc4c150f"),
    _amazon_2014("Sports_and_Outdoors", "a31a27e2f0cd85b50acd002378cf1a23a0b3f2659484defb3225a836118252d4"),
    _amazon_2014("Toys_and_Games", "e28a342ca89a79036a9a840c0385a3a3342a08d3d3450ea3eaf3d544cd65d3af"),
    _amazon_2014("Electronics", "a8e5b66b7f5371d1659ff88ae4acec91604125d6850f4f7e1c418120f2f9c16c"),
    _amazon_2014("Books", "87d923ddac2aacf40c1d0e0e056dbf4bf69c9c7d41852c6b434e781e759c0707"),
    _amazon_2014("Video_Games", "f0ca171050c2e0f208d47f5267992476b21ab68a01439c21c8be1a4432982cfa"),
    _amazon_2014("Musical_Instruments", "c541cf84fcc75d98cc595ebd856b0ebd351efce134671171c2de0d54b9573b9c"),
    _amazon_2018("All_Beauty", "b3d9260771f9fe489a61180b9ff407e15e10f481a287848f69bc4709b669246f"),
    _amazon_2018("Luxury_Beauty", "5e1ab08a0147412d6a15ab4b8259df7fbc1fe09c747ba5c46486081ee4d68d24"),
    _amazon_2018("Magazine_Subscriptions", "40287d71ee0c49030ee222888fb21a95941c2c31344e15bdd2e58e0f63831c2d"),
    _amazon_2018("Video_Games", "c3fec1cce4ee67f0d51f8b53a7e294d8bbe6f75ca1d8732256e900b3c46606d8"),
    _amazon_2023("All_Beauty", "54b894e68ad965aa73cdb80d8695c1ed37679c46f38b6f97b21ab0fb585aab24"),
    _amazon_2023("Beauty_and_Personal_Care", "dd89a914e8c71d811c49a7e8fbdfc251c08bffb461b9544275e94018cb17f741"),
    _amazon_2023("Toys_and_Games", "170fc8a18797c6091cf1b07bb3d97c13c94bfa030cf76c430bb8cac0dfb47a9f"),
    _amazon_2023("Sports_and_Outdoors", "110617511c7303ca34d157b7d62fd20a02e412c3639b4c6e307a951fadf0414c"),
    _amazon_2023("Video_Games", "30692f9806e33a7b5d8b599b73d7ca33dbfefb0abdfc1578052a101f2e64b3cd"),
    CatalogEntry(
        name="taobao",
        title="Taobao UserBehavior: 100 million views, purchases, carts, favourites",
        address="https://tianchi.aliyun.com/dataset/649",
        file="UserBehavior.csv.zip",
        checksum=None,
        licence="Tianchi terms (commonly cited as CC BY-NC-SA 4.0)",
        reader=None,
        login=True,
    ),
    CatalogEntry(
        name="tmall",
        title="Tmall (IJCAI-15): clicks, carts, purchases, favourites",
        address="https://tianchi.aliyun.com/dataset/42",
        file="data_format2.zip",
        checksum="md5:b8143773b800c7420b201d04bc7a9c15",
        licence="Tianchi terms",
        reader=None,
        login=True,
    ),
    _kuairand("Pure", "0820331067a3784d9691136f772b35a7"),
    _kuairand("1K", "6b0b9c8222d67fcd4c676218edca3f1f"),
    _kuairand("27K", "3e3c799a24e2d23a4d2c757fbf9adf59"),
    CatalogEntry(
        name="kuairec",
        title="KuaiRec 2.0: short videos, one block fully observed",
        address=f"{_ZENODO}/18164998/files/KuaiRec.zip",
        file="KuaiRec.zip",
        checksum="md5:261550d472c48eff4990fb13c0e5bcf7",
        licence="CC BY-SA 4.0",
        reader=None,
    ),
    CatalogEntry(
        name="kkbox-x1",
        title="KKBox_x1 (BARS): music recommendations with labels, random 8:1:1 split, no timestamps",
        address=f"{_RECZOO}/KKBox_x1/resolve/main/KKBox_x1.zip",
        file="KKBox_x1.zip",
        checksum="sha256:2a174e33478c29eff33e69fe18536e3c8f2df65930d7383b6c20562a881ba658",
        licence="rules of the WSDM 2018 KKBox competition",
        reader="bars",
        add_options="--user msno --item song_id",
    ),
    CatalogEntry(
        name="movielenslatest-x1",
        title="MovielensLatest_x1 (BARS): tags as clicks, sampled negatives, random split, no timestamps",
        address=f"{_RECZOO}/MovielensLatest_x1/resolve/main/MovielensLatest_x1.zip",
        file="MovielensLatest_x1.zip",
        checksum="sha256:a809509dfce89d77ca0db2985a92033c829688c1a99af98f0ead0e0f79766d27",
        licence="MovieLens terms: " + _ML_OPEN,
        reader="bars",
    ),
    _yambda("listens", "eed9cbd094af1e189507d2f8132a0dc9653b90e65480125c7cdccd601e0592d1"),
    _yambda("likes", "694087077dbacfcc1d22a5ca85cc6bd8ab182361933406e60500624c6a422bc4"),
    _yambda("dislikes", "64f240a6d62b8acdfa6efae660a54d10ebc64f9f2f0aeeef8e6bb0dbe7dc2802"),
)

CATALOG: dict[str, CatalogEntry] = {entry.name: entry for entry in _ENTRIES}
