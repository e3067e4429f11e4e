// Runs a policy that AOTInductor compiled: package POLICY.pt2
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <iomanip>
#include <iostream>

int main(int, char** argv) {
  torch::InferenceMode no_gradients;
  torch::inductor::AOTIModelPackageLoader policy(argv[1]);

  std::cout << std::setprecision(9);
  for (int64_t batch : {1, 3, 64}) {
    // The package does not look at its inputs: contiguous, float32, and of the contract's shape.
    torch::Tensor observation = torch::linspace(-1, 1, batch * 4).view({batch, 4});
    torch::Tensor action = policy.run({observation})[0].contiguous();

    const float* value = action.const_data_ptr<float>();
    for (int64_t i = 0; i < action.numel(); i++) {
      std::cout << value[i] << ' ';
    }
    std::cout << '\n';
  }
}
