// Runs a TorchScript policy with LibTorch: policy POLICY.pt
#include <torch/script.h>

#include <iomanip>
#include <iostream>

int main(int, char** argv) {
  torch::InferenceMode no_gradients;
  torch::jit::Module policy = torch::jit::load(argv[1]);

  std::cout << std::setprecision(9);
  for (int64_t batch : {1, 3, 64}) {
    torch::Tensor observation = torch::linspace(-1, 1, batch * 4).view({batch, 4});
    torch::Tensor action = policy.forward({observation}).toTensor().contiguous();

    const float* value = action.const_data_ptr<float>();
    for (int64_t i = 0; i < action.numel(); i++) {
      std::cout << value[i] << ' ';
    }
    std::cout << '\n';
  }
}
