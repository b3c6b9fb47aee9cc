//! Bodies of the fuzz targets (fuzz/), which tests run with bounded random input.
