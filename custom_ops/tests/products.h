// Dynamic products against plain loops, and each instruction set's against those of scalar: rows lie before a page that cannot be
// read, outputs between bytes that must stay.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "isa/dispatch.h"
#include "isa/float_mode.h"
#include "network/products.h"
#include "tests/networks.h"

namespace onnxquant::tests {

inline double activated(Activation activation, double x) {
  if (activation == Activation::kRelu) return x < 0 ? 0 : x;
  return activation == Activation::kGelu ? x / 2 * (1 + std::erf(x / std::sqrt(2.0))) : x;
}

struct ProductShape {
  std::int64_t rows, length;
  std::vector<std::int64_t> channels;
  // Where x lies: 0 becomes zero point 0, 255, or one between.
  float low, high;
};

class ProductTest {
 public:
  ProductTest(const ProductShape& shape, Random& random) : shape_(shape), x_(count(shape.rows, shape.length)) {
    std::uniform_real_distribution<float> value(shape.low, shape.high);
    for (float& x : x_) x = value(random);
    for (std::size_t i = 0; i < shape.channels.size(); ++i) {
      const std::int64_t channels = shape.channels[i];
      Weights weights{std::vector<std::int8_t>(count(shape.length, channels)), {}, {}, static_cast<Activation>((i + random()) % 3)};
      for (std::int8_t& w : weights.codes) w = static_cast<std::int8_t>(random() % 255 - 127);
      std::uniform_real_distribution<float> scale(1e-4f, 1e-2f), bias(-1.0f, 1.0f);
      for (std::int64_t c = 0; c < channels; ++c) {
        weights.scales.push_back(scale(random));
        weights.bias.push_back(bias(random));
      }
      weights_.push_back(weights);
    }
  }
  // Puts what is no number, or infinite, into some places.
  void spoil(float with, Random& random) {
    for (int i = 0; i < 3 && !x_.empty(); ++i) x_[random() % x_.size()] = with;
  }

  // The outputs of all products, one behind the other.
  std::vector<float> run(const InstructionSet& set) const {
    std::vector<ProductParts> parts;
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      const Weights& w = weights_[i];
      parts.push_back({shape_.length, shape_.channels[i], w.codes.data(), w.scales.data(), true, w.bias.data(), w.activation});
    }
    const DynamicProducts products(parts);
    const Guarded x(x_.size() * sizeof(float), true);
    std::memcpy(x.data(), x_.data(), x_.size() * sizeof(float));
    std::vector<std::unique_ptr<Guarded>> memory;
    std::vector<float*> outputs;
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      memory.push_back(std::make_unique<Guarded>(count(shape_.rows, shape_.channels[i]) * sizeof(float), true));
      outputs.push_back(reinterpret_cast<float*>(memory.back()->data()));
    }
    Serial serial;
    products.run(set, reinterpret_cast<const float*>(x.data()), shape_.rows, outputs, serial);
    std::vector<float> all;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      all.insert(all.end(), outputs[i], outputs[i] + count(shape_.rows, shape_.channels[i]));
    }
    return all;
  }

  // Whether outputs are what plain loops give.
  bool is_right(const std::vector<float>& outputs) const {
    float low = 0, high = 0;
    for (const float x : x_) {
      low = x < low ? x : low;
      high = x > high ? x : high;
    }
    const float scale = high == low ? 1.0f : (high - low) / 255.0f;
    const float zero = std::nearbyint(std::max(0.0f, std::min(255.0f, 0.0f - low / scale)));
    std::size_t at = 0;
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      const Weights& w = weights_[i];
      for (std::int64_t row = 0; row < shape_.rows; ++row) {
        for (std::int64_t c = 0; c < shape_.channels[i]; ++c, ++at) {
          std::int64_t sum = 0;
          for (std::int64_t k = 0; k < shape_.length; ++k) {
            const float x = x_[count(row, shape_.length) + static_cast<std::size_t>(k)];
            const float code = std::isnan(x) ? 0.0f : std::max(0.0f, std::min(255.0f, std::nearbyint(x / scale) + zero));
            sum += static_cast<std::int64_t>(code - zero) * w.codes[count(k, shape_.channels[i]) + static_cast<std::size_t>(c)];
          }
          const auto channel = static_cast<std::size_t>(c);
          const double factor = static_cast<double>(scale * w.scales[channel]);
          const double before = static_cast<double>(sum) * factor + static_cast<double>(w.bias[channel]);
          const double expected = activated(w.activation, before);
          const double size = std::abs(static_cast<double>(sum) * factor) + 1;
          if (!(std::abs(static_cast<double>(outputs[at]) - expected) <= 6e-7 * size)) return false;
        }
      }
    }
    return true;
  }

 private:
  struct Weights {
    std::vector<std::int8_t> codes;
    std::vector<float> scales, bias;
    Activation activation;
  };
  static std::size_t count(std::int64_t a, std::int64_t b) { return static_cast<std::size_t>(a * b); }

  ProductShape shape_;
  std::vector<float> x_;
  std::vector<Weights> weights_;
};

inline ProductShape random_shape(Random& random) {
  static constexpr float kEnds[][2] = {{-1, 2}, {0, 3}, {-2, 0}, {0, 0}, {0.5f, 1}, {-1e-30f, 1e-30f}, {-1e30f, 1e30f}};
  const auto* ends = kEnds[random() % (sizeof kEnds / sizeof *kEnds)];
  ProductShape shape{random() % 3 == 0 ? between(random, 1, 3) : between(random, 1, 150), between(random, 1, 200), {}, ends[0], ends[1]};
  for (std::int64_t i = between(random, 1, 3); i > 0; --i) shape.channels.push_back(between(random, 1, 70));
  return shape;
}

// `sets` begins with scalar.
inline void check_dynamic_products(const std::vector<const InstructionSet*>& sets, int count) {
  Random random(11);
  for (int i = 0; i < count; ++i) {
    const ProductShape shape = random_shape(random);
    ProductTest test(shape, random);
    if (i % 7 == 0) test.spoil(std::numeric_limits<float>::quiet_NaN(), random);
    const bool has_infinity = i % 11 == 0;
    if (has_infinity) test.spoil(std::numeric_limits<float>::infinity(), random);
    const std::vector<float> first = test.run(*sets.front());
    const auto text = [&] { return std::to_string(shape.rows) + " x " + std::to_string(shape.length); };
    const bool is_ordinary = !has_infinity && (shape.high == 0 || shape.high < 1e30f);
    if (is_ordinary && !test.is_right(first)) fail("dynamic products of %s: scalar is wrong", text().c_str());
    for (const InstructionSet* set : sets) {
      const std::vector<float> y = test.run(*set);
      bool same = true;
      for (std::size_t k = 0; k < y.size(); ++k) {
        same = same && (std::memcmp(&y[k], &first[k], sizeof(float)) == 0 || (std::isnan(y[k]) && std::isnan(first[k])));
      }
      if (!same) fail("dynamic products of %s: %s differs from scalar", text().c_str(), set->name);
    }
  }
}

}  // namespace onnxquant::tests
