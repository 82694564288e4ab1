// What the checks share: failures are counted and printed, the first few of them.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "question.h"

// Prints what failed, printf-like; the run goes on.
void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
long failures();

std::vector<std::string> isas();  // of this processor

// Asked of malloc since the program began; 0 where it is built without AddressSanitizer.
size_t allocated_bytes();

void check_cases(const char* file, double work);
void check_fuzz(uint64_t seed, long count);
void check_refusals();

// Largest error of a row of an answer, in units of tolerance: absolute for actions, whose range is
// 2, else relative where the number is above 1. An expected NaN is not compared.
double error_of(const Outputs& got, const Answer& expected, int row, double tolerance, int* output = nullptr);
