"""Large sets of chest radiographs: CheXpert, MIMIC-CXR-JPG, NIH ChestX-ray14 and PadChest."""
