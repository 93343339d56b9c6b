"""Where the data of the papers' tables are published and under which terms: what a protocol says when it has none.

Terms are those of the data sets' pages as far as they were read; "see its page" where they were not.
"""

from __future__ import annotations

from typing import NamedTuple


class DataSet(NamedTuple):
    """One data set as it unpacks."""

    files: str
    where: str
    terms: str


DATA_SETS = {
    "ade20k": DataSet("ADEChallengeData2016", "data.csail.mit.edu/places/ADEchallenge", "see its page"),
    "co3d": DataSet("CATEGORY/frame_annotations.jgz and images", "github.com/facebookresearch/co3d", "see its page"),
    "coco-captions": DataSet("val2017, annotations/captions_val2017.json", "cocodataset.org", "annotations CC BY 4.0"),
    "dtu": DataSet("scanN with images and cams", "github.com/YoYo000/MVSNet", "see its page"),
    "imagenet": DataSet("train and val, a folder per class", "image-net.org", "on request, non-commercial research"),
    "kitti": DataSet("raw drives and data_depth_annotated", "cvlibs.net/datasets/kitti", "CC BY-NC-SA 3.0"),
    "mapfree": DataSet("val and test", "research.nianticlabs.com/mapfree-reloc-benchmark", "see its page"),
    "navi": DataSet("navi_v1.5", "github.com/google/navi", "see its page"),
    "nyuv2": DataSet("nyu_depth_v2_labeled.mat, splits.mat", "cs.nyu.edu/~silberman/datasets", "see its page"),
    "scannet": DataSet("scannet_test_1500 or exported scans", "scan-net.org, zju3dv/LoFTR", "ScanNet's, on request"),
    "spair": DataSet("SPair-71k", "cvlab.postech.ac.kr/research/SPair-71k", "photos: Flickr's terms of use"),
    "voc": DataSet("VOC2012", "host.robots.ox.ac.uk/pascal/VOC/voc2012", "photos: Flickr's terms of use"),
}
"""Format of `data scan` -> what it reads."""


def wanted(*formats: str) -> str:
    """What to get and scan, in one line: "--format voc: VOC2012, from host… (photos: Flickr's terms of use)"."""
    said = ((name, DATA_SETS[name]) for name in formats)
    return "; or ".join(f"--format {name}: {of.files}, from {of.where} ({of.terms})" for name, of in said)
