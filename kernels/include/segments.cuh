// Which tokens of a packed batch see one another: segments [segment_count + 1] are offsets of the
// examples, 0 first and the number of tokens last. Offsets that break this give wrong answers, but
// only numbers of tokens that exist.
#pragma once
#include "common.cuh"

// Number of the segment that holds token t: the last one that begins at or before it.
__device__ __forceinline__ int segment_of(const unsigned* segments, int segment_count, int t) {
  int low = 0, high = segment_count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (segments[middle] <= unsigned(t))
      low = middle;
    else
      high = middle;
  }
  return low;
}

// First key of query t.
__device__ __forceinline__ int first_key(const unsigned* segments, int segment_count, int t) {
  return int(min(segments[segment_of(segments, segment_count, t)], unsigned(t)));
}

// One past the last query of key t.
__device__ __forceinline__ int query_end(const unsigned* segments, int segment_count, int count,
                                         int t) {
  const unsigned end = segments[segment_of(segments, segment_count, t) + 1];
  return int(min(max(end, unsigned(t) + 1), unsigned(count)));
}
