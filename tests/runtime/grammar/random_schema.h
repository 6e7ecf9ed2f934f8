// Schemas of objects with properties of all kinds that a grammar can enforce.
#pragma once

#include <boost/json/value.hpp>
#include <random>

namespace tandem::tests {

boost::json::value random_object_schema(std::mt19937_64& random);

}  // namespace tandem::tests
