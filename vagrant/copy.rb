# Copies the checkout to a machine, and the wheels only to one that has not installed just these already: 47 MiB that a
# `vagrant provision` need not send again. A provisioner of our own, since Vagrant's `file` does not ask before it copies.
require "digest"
require_relative "checkout"

module Copy
  INSTALLED = "/opt/miniecs/.venv/installed".freeze # install.sh writes there what it has installed
  LIST = File.expand_path("stage/installed.txt", __dir__)

  # The command that succeeds on a machine that has what is staged here; nil if nothing is.
  def self.question(list = LIST)
    return unless File.exist?(list)

    "test \"$(cat #{INSTALLED} 2>/dev/null)\" = #{Digest::SHA256.file(list).hexdigest[0, 16]}"
  end

  class Config < Vagrant.plugin("2", :config)
    attr_accessor :checkout, :wheels
  end

  class Provisioner < Vagrant.plugin("2", :provisioner)
    def provision
      send_to("/tmp/checkout.tar", config.checkout)
      question = Copy.question
      send_to("/tmp/wheels.tar", config.wheels) if question && !machine.communicate.test(question, sudo: true)
    end

    private

    def send_to(place, file)
      machine.ui.detail("#{file} => #{place}, #{File.size(file) >> 10} KiB")
      machine.communicate.upload(file, place)
    end
  end

  class Plugin < Vagrant.plugin("2")
    name "miniecs copy"
    config(:checkout, :provisioner) { Config }
    provisioner(:checkout) { Provisioner }
  end
end
